//go:build linux

package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"swarm/internal/grpctest"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// rig has two nodes on loopback addresses. Node a probes node b.
type rig struct {
	a, b *Prober
	// ping is what Deps.Ping of both nodes returns.
	ping error
}

// testDataPort is a UDP port without a listener. The receiver of a probe needs none.
const testDataPort = 47890

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("raw sockets need root")
	}
	r := &rig{}
	na, nb := listener(t, "127.81.0.1", "a"), listener(t, "127.81.0.2", "b")
	ping := func(context.Context, string) error { return r.ping }
	r.b = New(Config{Hostname: "host-b"}, Deps{Others: func() []Node { return []Node{na} }, Ping: ping})
	conn := serve(t, r.b, "a")
	r.a = New(Config{Hostname: "host-a"}, Deps{
		Others: func() []Node { return []Node{nb} }, Ping: ping,
		Dial: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
	})
	return r
}

// listener returns a node that uses one port for the cluster and for gossip.
func listener(t *testing.T, addr, id string) Node {
	t.Helper()
	ln, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	return Node{ID: id, Addr: netip.MustParseAddr(addr), Port: port, GossipPort: port}
}

// serve returns a connection to p. Calls on it come from the node caller.
func serve(t *testing.T, p *Prober, caller string) *grpc.ClientConn {
	t.Helper()
	as := transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindNode, ID: caller, NotAfter: time.Now().Add(time.Hour)}}
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(transport.WithAuthInfo(ctx, as), req)
	}))
	swarmv1.RegisterDoctorServer(server, p)
	return grpctest.Serve(t, server)
}

func (r *rig) survey(t *testing.T) *swarmv1.SurveyedNode {
	t.Helper()
	got, err := r.a.Survey(t.Context(), &swarmv1.SurveyRequest{DataPathPort: testDataPort})
	if err != nil || len(got.Nodes) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	return got.Nodes[0]
}

func faults(ways []*swarmv1.TriedWay) (out []string) {
	for _, w := range ways {
		if w.Error != "" {
			out = append(out, w.Network+" "+w.Purpose+": "+w.Error)
		}
	}
	return out
}

func TestSurvey_AllWaysWork(t *testing.T) {
	got := newRig(t).survey(t)
	if got.Error != "" || got.Hostname != "host-b" || got.Addr != "127.81.0.2" {
		t.Errorf("got %v", got)
	}
	for name, ways := range map[string][]*swarmv1.TriedWay{"out": got.Out, "in": got.In} {
		if f := faults(ways); len(f) > 0 || len(ways) != 5 {
			t.Errorf("%s: got %d ways, faults %q", name, len(ways), f)
		}
		if last := ways[len(ways)-1]; last.Bytes != maxPacket {
			t.Errorf("%s: large packet of %d bytes, want %d on loopback", name, last.Bytes, maxPacket)
		}
	}
	if o := got.ClockOffset.AsDuration().Abs(); o > time.Second {
		t.Errorf("clocks of one machine are %s apart", o)
	}
}

func TestSurvey_ReportsFailedWays(t *testing.T) {
	r := newRig(t)
	r.ping = errors.New("no answer")
	n := r.a.deps.Others()[0]
	n.Port = 1 // no listener
	r.a.deps.Others = func() []Node { return []Node{n} }
	got := r.survey(t)
	out, in := strings.Join(faults(got.Out), "; "), faults(got.In)
	if !strings.Contains(out, "tcp the cluster: dial tcp 127.81.0.2:1: connect: connection refused") || !strings.Contains(out, "udp gossip: no answer") {
		t.Errorf("out: %q", out)
	}
	if diff := cmp.Diff([]string{"udp gossip: no answer"}, in); diff != "" {
		t.Errorf("in: -want +got:\n%s", diff)
	}
}

func TestSurvey_UnreachableNode(t *testing.T) {
	r := newRig(t)
	r.a.deps.Dial = func(string) (grpc.ClientConnInterface, error) { return nil, errors.New("nobody there") }
	got := r.survey(t)
	if got.Error != "nobody there" || len(got.In) != 0 || len(got.Out) != 3 {
		t.Errorf("got %v", got)
	}
}

func TestProbe_RefusesInvalidCalls(t *testing.T) {
	r := newRig(t)
	stranger := swarmv1.NewDoctorClient(serve(t, r.b, "c"))
	known := swarmv1.NewDoctorClient(serve(t, r.b, "a"))
	nonce := make([]byte, nonceSize)
	for _, tc := range []struct {
		caller swarmv1.DoctorClient
		req    *swarmv1.ProbeRequest
		want   string
	}{
		{stranger, &swarmv1.ProbeRequest{Nonce: nonce}, "node c is not on this node's list of members"},
		{known, &swarmv1.ProbeRequest{Nonce: []byte("short")}, "a nonce of 5 bytes"},
		{known, &swarmv1.ProbeRequest{Nonce: nonce, DataPathPort: 70000}, "70000 is not a port"},
	} {
		if _, err := tc.caller.Probe(t.Context(), tc.req); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: got %v, want %q", tc.req, err, tc.want)
		}
	}
}

func TestMatchProbe(t *testing.T) {
	nonce, other := []byte("0123456789abcdef"), []byte("fedcba9876543210")
	packet := func(port byte, content []byte) []byte { return append([]byte{9, 9, 0, port, 0, 0, 0, 0}, content...) }
	for _, tc := range []struct {
		name      string
		datagram  []byte
		large, ok bool
	}{
		{"small", packet(7, frame(nonce, false, 0)), false, true},
		{"large", packet(7, frame(nonce, true, 1000)), true, true},
		{"another probe", packet(7, frame(other, false, 0)), false, false},
		{"another port", packet(8, frame(nonce, false, 0)), false, false},
		{"cut short", packet(7, frame(nonce, false, 0))[:40], false, false},
		{"empty", nil, false, false},
		{"a container's", packet(7, make([]byte, 100)), false, false},
	} {
		if large, ok := matchProbe(tc.datagram, 7, nonce); large != tc.large || ok != tc.ok {
			t.Errorf("%s: got %t, %t, want %t, %t", tc.name, large, ok, tc.large, tc.ok)
		}
	}
	if n := len(frame(nonce, true, 1472)); n != 1472 {
		t.Errorf("got %d bytes, want 1472", n)
	}
}

func FuzzMatchProbe(f *testing.F) {
	nonce := []byte("0123456789abcdef")
	f.Add(append(make([]byte, 8), frame(nonce, true, 100)...))
	f.Fuzz(func(t *testing.T, datagram []byte) { matchProbe(datagram, 0, nonce) })
}

func TestClockOffset(t *testing.T) {
	base := time.Unix(1_000_000, 0)
	at := func(d time.Duration) time.Time { return base.Add(d) }
	// The other clock is 10 s ahead; 100 ms each way, 1 s of work.
	got, trip := clockOffset(at(0), at(10*time.Second+100*time.Millisecond), at(11*time.Second+100*time.Millisecond), at(1200*time.Millisecond))
	if got != 10*time.Second || trip != 200*time.Millisecond {
		t.Errorf("got %s, %s, want 10s, 200ms", got, trip)
	}
}

func TestSurvey_ReportsOwnNetworks(t *testing.T) {
	want := &swarmv1.SurveyedSelf{Room: 1450, Networks: []*swarmv1.HeldNetwork{{Name: "web", Mtu: 1450}}}
	var problem error
	p := New(Config{}, Deps{
		Others: func() []Node { return nil },
		Self:   func(context.Context) (*swarmv1.SurveyedSelf, error) { return want, problem },
	})
	got, err := p.Survey(t.Context(), &swarmv1.SurveyRequest{})
	if err != nil || got.GetSelf() != want {
		t.Errorf("got %v, %v", got, err)
	}
	problem = errors.New("no netlink")
	if got, err := p.Survey(t.Context(), &swarmv1.SurveyRequest{}); err != nil || got.GetSelf().GetError() != "no netlink" {
		t.Errorf("got %v, %v, want the error in Self and no error of Survey", got, err)
	}
}
