//go:build linux

package probe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/eventually"
	"swarm/internal/grpctest"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// newManager returns a client of a manager at 127.81.1.1, and the host at 127.81.1.2 that wants to
// join.
func newManager(t *testing.T) (swarmv1.AdmissionClient, Joiner) {
	t.Helper()
	return newManagerWith(t, joinTimeout, func(context.Context) error { return nil })
}

// newManagerWith is newManager for a manager that bounds a call to limit. admit may refuse callers.
func newManagerWith(t *testing.T, limit time.Duration, admit func(context.Context) error) (swarmv1.AdmissionClient, Joiner) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("raw sockets need root")
	}
	cluster, gossip := listener(t, "127.81.1.1", "cluster"), listener(t, "127.81.1.1", "gossip")
	k := NewJoinServer(func(ctx context.Context) (Manager, error) {
		if err := admit(ctx); err != nil {
			return Manager{}, err
		}
		return Manager{
			Hostname: "manager", Addr: cluster.Addr, Port: cluster.Port, GossipPort: gossip.GossipPort,
			Data: netip.AddrPortFrom(cluster.Addr, testDataPort),
		}, nil
	})
	k.permit = func(net.Addr, netip.Addr) error { return nil } // The connection is in memory and has no address.
	k.limit = limit
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return transport.ToStatus(next(srv, ss))
	}))
	swarmv1.RegisterAdmissionServer(server, k)
	host := listener(t, "127.81.1.2", "host")
	return swarmv1.NewAdmissionClient(grpctest.Serve(t, server)), Joiner{Addr: host.Addr, Port: host.Port, DataAddr: host.Addr, Bind: host.Addr}
}

func TestJoin_AllWaysWork(t *testing.T) {
	c, j := newManager(t)
	began := time.Now()
	got, err := Join(t.Context(), c, j)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > joinAttemptTimeout {
		t.Errorf("took %s, want less than a timeout", took)
	}
	if got.Hostname != "manager" || got.Addr != "127.81.1.1" {
		t.Errorf("got %v", got)
	}
	for name, ways := range map[string][]*swarmv1.TriedWay{"out": got.Out, "in": got.In} {
		if f := faults(ways); len(f) > 0 || len(ways) != 4 {
			t.Errorf("%s: %d ways, faults %q", name, len(ways), f)
		}
	}
}

func TestJoin_ReportsMissingPackets(t *testing.T) {
	c, j := newManager(t)
	// No host has this address, so the packets of the manager are lost.
	j.Addr, j.DataAddr = netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.9")
	got, err := Join(t.Context(), c, j)
	if err != nil {
		t.Fatal(err)
	}
	if f := faults(got.Out); len(f) > 0 {
		t.Errorf("out: faults %q", f)
	}
	if f := faults(got.In); len(f) != 4 {
		t.Errorf("in: faults %q, want four", f)
	}
}

func TestJoin_Refusals(t *testing.T) {
	closed, j := newManagerWith(t, joinTimeout, func(context.Context) error { return errdefs.ErrUnauthenticated.WithMessage("a wrong token") })
	if _, err := Join(t.Context(), closed, j); !errdefs.IsUnauthorized(transport.FromStatus(err)) {
		t.Errorf("a wrong token: %v", err)
	}
	c, j := newManager(t)
	// The gossip ports of this address are in use.
	j.Bind = netip.MustParseAddr("127.81.1.1")
	_, err := Join(t.Context(), c, j)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "is in use on this host") {
		t.Errorf("ports in use: %v", err)
	}
	stream, err := c.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&swarmv1.AdmissionRequest{Addr: "x", Nonce: []byte{1}})
	if _, err := stream.Recv(); !errdefs.IsInvalidArgument(transport.FromStatus(err)) {
		t.Errorf("invalid request: %v", err)
	}
}

// A caller that sends nothing more, after either step, does not keep its slot for long: another
// host with the same address gets it.
func TestProbe_SilentCallersHoldNoSlot(t *testing.T) {
	for name, requests := range map[string]int{"before it listens": 1, "after the verdict": 2} {
		t.Run(name, func(t *testing.T) {
			c, j := newManagerWith(t, time.Second, func(context.Context) error { return nil })
			stream, err := c.Probe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for range requests {
				_ = stream.Send(&swarmv1.AdmissionRequest{Nonce: newNonce(), Addr: j.Addr.String(), Port: uint32(j.Port)})
				if _, err := stream.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			eventually.Nil(t, "another host with the same address is tested", func() error {
				_, err := Join(t.Context(), c, j)
				return err
			})
		})
	}
}

// A manager tests the address from which the caller connects, and no other.
func TestPermit(t *testing.T) {
	for _, c := range []struct {
		caller, addr string
		want         func(error) bool
	}{
		{"192.0.2.7:1234", "192.0.2.7", nil},
		{"[2001:db8::7]:1234", "2001:db8::7", nil},
		{"[::ffff:192.0.2.7]:1234", "192.0.2.7", nil},
		{"192.0.2.7:1234", "192.0.2.8", errdefs.IsFailedPrecondition},
		{"[2001:db8::7]:1234", "2001:db8::8", errdefs.IsFailedPrecondition},
		{"192.0.2.7:1234", "2001:db8::7", errdefs.IsUnavailable},
		{"127.0.0.1:1234", "127.0.0.1", errdefs.IsPermissionDenied},
		{"[::1]:1234", "::1", errdefs.IsPermissionDenied},
		{"[fe80::1%eth0]:1234", "fe80::1", errdefs.IsPermissionDenied},
		{"169.254.1.1:1234", "169.254.1.1", errdefs.IsPermissionDenied},
		{"224.0.0.1:1234", "224.0.0.1", errdefs.IsPermissionDenied},
		{"[ff02::1]:1234", "ff02::1", errdefs.IsPermissionDenied},
		{"255.255.255.255:1234", "255.255.255.255", errdefs.IsPermissionDenied},
		{"0.0.0.0:1234", "0.0.0.0", errdefs.IsPermissionDenied},
		{"/run/swarm.sock", "192.0.2.7", errdefs.IsPermissionDenied},
	} {
		caller := net.Addr(&net.UnixAddr{Name: c.caller, Net: "unix"})
		if at, err := netip.ParseAddrPort(c.caller); err == nil {
			caller = net.TCPAddrFromAddrPort(at)
		}
		err := permit(caller, netip.MustParseAddr(c.addr))
		if c.want == nil && err != nil || c.want != nil && !c.want(err) {
			t.Errorf("permit %s to test %s: got %v", c.caller, c.addr, err)
		}
	}
}
