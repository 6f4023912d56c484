package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"swarm/internal/eventually"
	"swarm/internal/pki"
)

// TestPool adds connections of the origins a to z in order. left has the origins of the connections
// that remain.
func TestPool(t *testing.T) {
	for _, c := range []struct {
		limit      int
		came, left string
	}{
		{4, "abc", "abc"},
		{4, "aaa", "aa"},              // an origin may have half of all connections
		{4, "abcde", "bcde"},          // all origins have one: the oldest connection is evicted
		{4, "aabbc", "abbc"},          // two origins have the most: the oldest connection of both is evicted
		{4, "abbcd", "abcd"},          // the oldest connection of the largest origin is evicted
		{4, "abababab", "abab"},       // the newest connections remain
		{4, "aabbaaaaaaaabb", "aabb"}, // an origin cannot evict connections of the other one
		{1, "ab", "b"},
	} {
		p := newPool(c.limit, 2)
		var left []*trackedConn
		for i, name := range c.came {
			conn := &trackedConn{origin: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(name)}), 32), since: time.Unix(int64(i), 0)}
			left = append(left, conn)
			if evicted := p.add(conn); evicted != nil {
				left = slices.DeleteFunc(left, func(c *trackedConn) bool { return c == evicted })
			}
		}
		var names []byte
		for _, conn := range left {
			names = append(names, conn.origin.Addr().As4()[3])
		}
		slices.Sort(names)
		want := []byte(c.left)
		slices.Sort(want)
		if !bytes.Equal(names, want) || p.size != len(left) {
			t.Errorf("limit %d, %s came: left %s of size %d, want %s", c.limit, c.came, names, p.size, want)
		}
		for _, conn := range left {
			p.remove(conn)
		}
		if p.size != 0 || len(p.origins) != 0 {
			t.Errorf("limit %d, %s came: %d connections of %d origins are left after all have gone", c.limit, c.came, p.size, len(p.origins))
		}
	}
}

// anonymous opens a connection without a certificate.
func anonymous(t *testing.T, server *node) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", server.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ProtoGRPC}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// closedByPeer reports whether the other side has closed a connection.
func closedByPeer(conn net.Conn) bool {
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := io.Copy(io.Discard, conn)
	return err == nil || errors.Is(err, syscall.ECONNRESET)
}

// A stranger can evict connections of strangers only, and a new stranger can always connect.
func TestListener_StrangersShareABudget(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{MaxStrangers: 32})
	d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	member := must[*Conn](t)(d.DialGRPC(server.id))
	stream := must[grpc.ServerStreamingClient[healthpb.HealthCheckResponse]](t)(healthpb.NewHealthClient(member).Watch(t.Context(), &healthpb.HealthCheckRequest{}))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	var strangers []*tls.Conn
	for range 40 {
		strangers = append(strangers, anonymous(t, server))
	}
	eventually.Nil(t, "one address has its part of the places", func() error {
		open := slices.DeleteFunc(slices.Clone(strangers), func(c *tls.Conn) bool { return closedByPeer(c) })
		if len(open) != 16 {
			return fmt.Errorf("%d strangers are connected, want 16", len(open))
		}
		return nil
	})
	late := must[*Conn](t)(dialer(t, identity(t, pki.Credential{}, root.Cert), server).DialGRPC(server.id))
	if err := check(t, late); err != nil {
		t.Errorf("a call of one more stranger: %v", err)
	}
	if err := check(t, member); err != nil {
		t.Errorf("a call of a member: %v", err)
	}
	stop := time.AfterFunc(time.Second, func() { _ = member.Close() })
	defer stop.Stop()
	if _, err := stream.Recv(); !stop.Stop() && err == nil {
		t.Error("the stream of a member has ended")
	}
}

// Hosts of one network that join at the same time do not evict the connections of each other.
func TestListener_HostsOfOneOriginJoinAtOnce(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	var hosts []*tls.Conn
	for range DefaultMaxStrangers / 2 {
		hosts = append(hosts, anonymous(t, server))
	}
	cut := slices.DeleteFunc(slices.Clone(hosts), func(c *tls.Conn) bool { return !closedByPeer(c) })
	if len(cut) > 0 {
		t.Errorf("%d of %d hosts are cut off", len(cut), len(hosts))
	}
}

// A stranger may send a limited number of bytes, whatever these bytes are.
func TestListener_StrangersSendLittle(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	conn := anonymous(t, server)
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	ping := append([]byte("\x00\x00\x08\x06\x01\x00\x00\x00\x00"), make([]byte, 8)...) // a ping answer, which gRPC does not count as abuse
	block, sent := bytes.Repeat(ping, 64), 0
	for err := error(nil); err == nil && sent < 64<<20; sent += len(block) { // the buffers of the kernel accept some of it
		_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Write(block)
	}
	if sent >= 64<<20 {
		t.Errorf("a stranger sent %d bytes, the limit is %d", sent, strangerBytes)
	}
}

// Messages of strangers must be small. Messages of members may be larger.
func TestServers_BoundMessages(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	large := &healthpb.HealthCheckRequest{Service: strings.Repeat("x", strangerMessage)}
	for _, c := range []struct {
		name string
		cred pki.Credential
		want codes.Code
	}{
		{"anonymous", pki.Credential{}, codes.ResourceExhausted},
		{"expired", expired(t, root, newID()), codes.ResourceExhausted},
		{"member", fresh(t, root, newID()), codes.OK},
	} {
		conn := must[*Conn](t)(dialer(t, identity(t, c.cred, root.Cert), server).DialGRPC(server.id))
		_, err := healthpb.NewHealthClient(conn).Check(t.Context(), large)
		if got := status.Code(err); got != c.want && !(c.want == codes.ResourceExhausted && errdefs.IsResourceExhausted(err)) {
			t.Errorf("%s sends %d bytes: %v, want %v", c.name, strangerMessage, err, c.want)
		}
	}
}

// The connections of one key are limited, and do not use up the limit of another key.
func TestListener_LimitsConnectionsPerKey(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{MaxPerKey: 3})
	blobs := server.ln.Blob()
	go func() {
		for conn, err := blobs.Accept(); err == nil; conn, err = blobs.Accept() {
			_, _ = conn.Write([]byte("."))
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	greedy := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	served := func(d *Dialer) bool {
		conn := must[net.Conn](t)(d.DialALPN(t.Context(), server.id, ProtoBlob))
		t.Cleanup(func() { _ = conn.Close() })
		_, err := conn.Read(make([]byte, 1))
		return err == nil
	}
	got := 0
	for range 10 {
		if served(greedy) {
			got++
		}
	}
	if got != 3 {
		t.Errorf("a peer has %d connections, want 3", got)
	}
	if !served(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)) {
		t.Error("another peer has none")
	}
}

// A peer that does not read loses its connection, even if it sends.
func TestListener_ClosesConnectionsThatAreNotRead(t *testing.T) {
	root := newRoot(t, "c1")
	raw := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	id := identity(t, fresh(t, root, newID()), root.Cert)
	worker := func(string, AuthInfo) (Trust, error) { return Worker, nil }
	ln := NewListener(ListenerConfig{WriteTimeout: 300 * time.Millisecond}, ListenerDeps{Identity: id, Log: slog.New(slog.DiscardHandler), Admit: worker}, raw.Addr())
	part := ln.Workers()
	ran := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ran <- ln.Run(ctx, raw) }()
	defer func() {
		cancel()
		<-ran
	}()
	cred := fresh(t, root, newID())
	deaf, err := tls.Dial("tcp", raw.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ProtoGRPC}, Certificates: []tls.Certificate{cred.TLS()}})
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	conn := must[net.Conn](t)(part.Accept())
	defer conn.Close()
	go func() { // The peer keeps sending.
		for err := error(nil); err == nil; {
			_, err = deaf.Write([]byte("still here"))
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	failed := make(chan error, 1)
	go func() {
		for block := make([]byte, 32<<10); ; {
			if _, err := conn.Write(block); err != nil {
				failed <- err
				return
			}
		}
	}()
	select {
	case err := <-failed:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the write ended with %v, want the deadline", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a peer that reads nothing has its connection after 10s")
	}
}
