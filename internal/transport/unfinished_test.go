package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"swarm/internal/eventually"
	"swarm/internal/pki"
)

// hoarder begins a message on each of many streams of a connection. It sends as much of each
// message as the server accepts, but never the end.
type hoarder struct {
	framer *http2.Framer
	conn   int            // bytes that may be sent on the connection
	stream map[uint32]int // bytes that may be sent on a stream
	left   map[uint32]int // bytes left of the message of a stream, without its end
	taken  *atomic.Int64  // bytes that all hoarders have sent
	ended  chan struct{}  // closed when the connection is closed
}

const (
	initialWindow = 65535
	hoardedFrame  = 16 << 10
)

func (h *hoarder) begin(t *testing.T, server *node, cred pki.Credential, streams, size int) io.Closer {
	t.Helper()
	conn, err := tls.Dial("tcp", server.addr, &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{ProtoGRPC}, Certificates: []tls.Certificate{cred.TLS()},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.framer = http2.NewFramer(conn, conn)
	h.ended = make(chan struct{})
	h.conn, h.stream, h.left = initialWindow, map[uint32]int{}, map[uint32]int{}
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":path", "/grpc.health.v1.Health/Watch"},
		{":authority", "x"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // into memory
	}
	// Ignore the error: the server may close the connection at any time, which the reader notices.
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = h.framer.WriteSettings()
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
	for i := range streams {
		id := uint32(2*i + 1)
		_ = h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
		_ = h.framer.WriteData(id, false, prefix)
		h.stream[id], h.left[id] = initialWindow-len(prefix), size-1
		h.conn -= len(prefix)
	}
	go func() {
		defer close(h.ended)
		for {
			h.send()
			frame, err := h.framer.ReadFrame()
			if err != nil {
				return
			}
			h.follow(frame)
		}
	}()
	return conn
}

// follow handles a frame of the server.
func (h *hoarder) follow(frame http2.Frame) {
	switch frame := frame.(type) {
	case *http2.WindowUpdateFrame:
		if frame.StreamID == 0 {
			h.conn += int(frame.Increment)
		} else {
			h.stream[frame.StreamID] += int(frame.Increment)
		}
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			_ = h.framer.WriteSettingsAck()
		}
	case *http2.RSTStreamFrame:
		delete(h.left, frame.StreamID)
	case *http2.PingFrame:
		if !frame.IsAck() {
			_ = h.framer.WritePing(true, frame.Data)
		}
	}
}

// send sends as much as flow control allows.
func (h *hoarder) send() {
	for id := range h.left {
		for {
			n := min(h.conn, h.stream[id], h.left[id], hoardedFrame)
			if n <= 0 || h.framer.WriteData(id, false, make([]byte, n)) != nil {
				break
			}
			h.conn, h.stream[id], h.left[id] = h.conn-n, h.stream[id]-n, h.left[id]-n
			h.taken.Add(int64(n))
		}
	}
}

// Unfinished messages of workers cost little memory per key, and delay no other worker.
func TestListener_UnfinishedMessages(t *testing.T) {
	const keys, ofKey = 12, maxWorkerConns * (MaxWorkerMessage + workerStreams*smallWindow)
	if all := 48 * ofKey; all > 300<<20 { // 32 nodes that joined with one token, and 16 working nodes
		t.Errorf("48 keys may have %d MiB of unfinished messages held", all>>20)
	}
	root := newRoot(t, "c1")
	server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(string, AuthInfo) (Trust, error) { return Worker, nil })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var taken atomic.Int64
	began := time.Now()
	for range keys {
		cred := fresh(t, root, newID())
		for range maxWorkerConns {
			h := &hoarder{taken: &taken}
			defer h.begin(t, server, cred, workerStreams, MaxWorkerMessage).Close()
		}
	}
	last, still := int64(-1), 0
	eventually.Nil(t, "all is sent that is taken", func() error {
		now := taken.Load()
		if still++; now != last {
			last, still = now, 0
		}
		if still < 50 {
			return fmt.Errorf("%d bytes so far", now)
		}
		return nil
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d keys had the server take %d MiB of unfinished messages within %v; the heap grew by %d MiB",
		keys, taken.Load()>>20, time.Since(began).Round(time.Millisecond), (after.HeapInuse-before.HeapInuse)>>20)
	if mayHold := int64(keys * ofKey); taken.Load() > mayHold {
		t.Errorf("%d keys had the server take %d MiB of unfinished messages, want %d at most", keys, taken.Load()>>20, mayHold>>20)
	}
	conn := must[*Conn](t)(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server).DialGRPC(server.id))
	if err := check(t, conn); err != nil {
		t.Errorf("a call of another worker: %v", err)
	}
}

// A worker that does not finish the first message of a call loses its connection, even if it sends
// other frames.
func TestListener_ClosesUnfinished(t *testing.T) {
	const timeout = 300 * time.Millisecond
	root := newRoot(t, "c1")
	raw := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	id := identity(t, fresh(t, root, newID()), root.Cert)
	worker := func(string, AuthInfo) (Trust, error) { return Worker, nil }
	ln := NewListener(ListenerConfig{}, ListenerDeps{Identity: id, Log: slog.New(slog.DiscardHandler), Admit: worker}, raw.Addr())
	server := grpc.NewServer(append(commonOptions(), grpc.ChainStreamInterceptor(limitFirstMessage(timeout)))...)
	healthpb.RegisterHealthServer(server, probe{seen: make(chan AuthInfo, 100)})
	served, ran := make(chan error, 1), make(chan error, 1)
	part := ln.Workers()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { served <- server.Serve(part) }()
	go func() { ran <- ln.Run(ctx, raw) }()
	defer func() {
		cancel()
		<-ran
		server.Stop()
		<-served
	}()
	n := &node{id: id.NodeID(), addr: raw.Addr().String()}
	// A call whose first message has arrived keeps its connection.
	good := must[*Conn](t)(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), n).DialGRPC(n.id))
	stream := must[healthpb.Health_WatchClient](t)(healthpb.NewHealthClient(good).Watch(ctx, &healthpb.HealthCheckRequest{}))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h := &hoarder{taken: &atomic.Int64{}}
	defer h.begin(t, n, fresh(t, root, newID()), 2, MaxWorkerMessage).Close()
	select {
	case <-h.ended:
		if took := time.Since(began); took < timeout {
			t.Errorf("the connection ended after %v, want %v", took, timeout)
		}
	case <-time.After(10 * time.Second):
		t.Error("a worker that does not end a message has its connection after 10s")
	}
	if err := check(t, good); err != nil {
		t.Errorf("a call of another worker: %v", err)
	}
	select {
	case <-stream.Context().Done():
		t.Error("the stream of another worker has ended")
	default:
	}
}
