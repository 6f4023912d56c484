package ca_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// rig is a bootstrapped cluster with one manager.
type rig struct {
	t      *testing.T
	store  *raftstore.Store
	server *ca.Server
	found  *ca.BootstrapResult
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigAt(t, "10.0.0.1")
}

func newRigAt(t *testing.T, addr string) *rig {
	t.Helper()
	found, err := ca.NewCluster(ca.BootstrapConfig{
		CSR: csr(t), MachineID: "machine-0", Hostname: "host-0", Addr: addr, Port: 2377, DataPathAddr: dataPathOf(addr),
		Spec: &swarmv1.ClusterSpec{Network: &swarmv1.NetworkDefaults{GossipPort: 7946}}, Format: table.Format,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store := raftstoretest.New(t)
	if _, err := store.Commit(t.Context(), "init", found.Changes...); err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, store: store, found: found, server: ca.New(ca.Deps{Log: slog.New(slog.DiscardHandler), Store: store})}
}

// dataPathOf returns the data path address of the first node.
func dataPathOf(addr string) string {
	if addr == "10.0.0.1" {
		return "10.1.0.1"
	}
	return ""
}

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	out, err := pki.CreateCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *rig) tokens() *swarmv1.JoinTokens {
	return r.store.View().Cluster().GetRootCa().GetJoinTokens()
}

func (r *rig) request() *swarmv1.JoinRequest {
	return &swarmv1.JoinRequest{
		Csr: csr(r.t), MachineId: "machine-1", Hostname: "host-1", Addr: "10.0.0.2", Port: 2377,
	}
}

// joinAs joins as a host that knows the token of a role.
func (r *rig) joinAs(role swarmv1.NodeSpec_Role, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	token := r.tokens().GetWorker()
	if role == swarmv1.NodeSpec_MANAGER {
		token = r.tokens().GetManager()
	}
	return r.joinWith(token, req)
}

func (r *rig) joinWith(text string, req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	r.t.Helper()
	token, err := pki.ParseToken(text)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.server.Join(transport.WithProof(r.t.Context(), token), req)
}

func (r *rig) joinWorker(req *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	r.t.Helper()
	return r.joinAs(swarmv1.NodeSpec_WORKER, req)
}

func (r *rig) setState(id string, state swarmv1.NodeState_State) {
	r.t.Helper()
	row, _ := r.store.View().NodeStates.Get(id)
	row = row.CloneVT()
	row.State = state
	if _, err := r.store.Commit(r.t.Context(), "test", table.Update(row)); err != nil {
		r.t.Fatal(err)
	}
}

func TestJoin_MakesANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, role := range []swarmv1.NodeSpec_Role{swarmv1.NodeSpec_WORKER, swarmv1.NodeSpec_MANAGER} {
			req := r.request()
			if role == swarmv1.NodeSpec_MANAGER {
				req.MachineId, req.Hostname, req.Addr = "machine-2", "host-2", "10.0.0.3"
			}
			resp, err := r.joinAs(role, req)
			if err != nil {
				t.Fatal(err)
			}
			bundle, err := pki.ParseBundle(resp.GetBundle())
			if err != nil {
				t.Fatal(err)
			}
			cert, err := pki.ParseCert(resp.GetCertificate())
			if err != nil {
				t.Fatal(err)
			}
			if cert.Subject.CommonName != resp.GetNodeId() || bundle.ClusterID() != r.found.Cluster.GetId() {
				t.Errorf("certificate of %q in cluster %q", cert.Subject.CommonName, bundle.ClusterID())
			}
			view, err := r.store.WaitIndex(t.Context(), resp.GetIndex())
			if err != nil {
				t.Fatal(err)
			}
			node, _ := view.Nodes.Get(resp.GetNodeId())
			state, ok := view.NodeStates.Get(resp.GetNodeId())
			if node.GetSpec().GetRole() != role || resp.GetRole() != role || !ok || state.GetState() != swarmv1.NodeState_UNKNOWN {
				t.Errorf("node %v, state %v, want role %s and state UNKNOWN", node, state, role)
			}
			if len(resp.GetManagers()) == 0 || len(resp.GetGossipKeys()) != 1 || len(resp.GetGossipKeys()[0].GetKey()) != 32 || resp.GetNetwork().GetGossipPort() != 7946 {
				t.Errorf("the joiner got managers %v, %d gossip keys, network %v", resp.GetManagers(), len(resp.GetGossipKeys()), resp.GetNetwork())
			}
		}
	})
}

func TestJoin_Refuses(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(r *rig, req *swarmv1.JoinRequest)
		class func(error) bool
		says  string
	}{
		{"this host twice", func(r *rig, q *swarmv1.JoinRequest) {
			r.setState(r.found.Node.GetId(), swarmv1.NodeState_READY)
			q.MachineId, q.Hostname = "machine-0", "host-0"
		}, errdefs.IsAlreadyExists, "this host is already node"},
		{"a cloned machine id", func(_ *rig, q *swarmv1.JoinRequest) { q.MachineId = "machine-0" }, errdefs.IsAlreadyExists, "cloned disk"},
		{"an address in use", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "10.0.0.1" }, errdefs.IsAlreadyExists, "--advertise-addr"},
		{"an address in use, with another port", func(r *rig, q *swarmv1.JoinRequest) {
			r.clusterPort(3377)
			q.Addr, q.Port = "10.0.0.1", 3377
		}, errdefs.IsAlreadyExists, "--advertise-addr"},
		{"a port of its choice", func(_ *rig, q *swarmv1.JoinRequest) { q.Port = 443 }, errdefs.IsInvalidArgument, "neither the cluster's port, 2377"},
		{"a data path at another node", func(_ *rig, q *swarmv1.JoinRequest) { q.DataPathAddr = "10.0.0.1" }, errdefs.IsAlreadyExists, "--data-path-addr"},
		{"the data path of another node", func(_ *rig, q *swarmv1.JoinRequest) { q.DataPathAddr = "10.1.0.1" }, errdefs.IsAlreadyExists, "--data-path-addr"},
		{"the data path of another node, as its own", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "10.1.0.1" }, errdefs.IsAlreadyExists, "--advertise-addr"},
		{"no address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "host-1" }, errdefs.IsInvalidArgument, "not an IP address"},
		{"an address for nobody", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "0.0.0.0" }, errdefs.IsInvalidArgument, "one host"},
		{"no port", func(_ *rig, q *swarmv1.JoinRequest) { q.Port = 0 }, errdefs.IsInvalidArgument, "port 0"},
		{"no machine id", func(_ *rig, q *swarmv1.JoinRequest) { q.MachineId = "" }, errdefs.IsInvalidArgument, "machine id"},
		{"a machine id of two lines", func(_ *rig, q *swarmv1.JoinRequest) { q.MachineId = "a\nb" }, errdefs.IsInvalidArgument, "machine id"},
		{"no hostname", func(_ *rig, q *swarmv1.JoinRequest) { q.Hostname = "" }, errdefs.IsInvalidArgument, "hostname"},
		{"a hostname that forges a row", func(_ *rig, q *swarmv1.JoinRequest) { q.Hostname = "good\nforged" }, errdefs.IsInvalidArgument, "hostname"},
		{"a hostname that clears the terminal", func(_ *rig, q *swarmv1.JoinRequest) { q.Hostname = "\x1b[2J" }, errdefs.IsInvalidArgument, "hostname"},
		{"a huge hostname", func(_ *rig, q *swarmv1.JoinRequest) { q.Hostname = strings.Repeat("x", 1<<20) }, errdefs.IsInvalidArgument, "hostname"},
		{"a port beyond the last", func(_ *rig, q *swarmv1.JoinRequest) { q.Port = 65536 }, errdefs.IsInvalidArgument, "port 65536"},
		{"a loopback address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "127.0.0.1" }, errdefs.IsInvalidArgument, "loopback"},
		{"a link-local address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "169.254.1.1" }, errdefs.IsInvalidArgument, "link-local"},
		{"a link-local IPv6 address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "fe80::1" }, errdefs.IsInvalidArgument, "link-local"},
		{"an address with a zone", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "fe80::1%eth0" }, errdefs.IsInvalidArgument, "not an IP address"},
		{"a multicast address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "224.0.0.1" }, errdefs.IsInvalidArgument, "one host"},
		{"a broadcast address", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "255.255.255.255" }, errdefs.IsInvalidArgument, "one host"},
		{"the first node's address in disguise", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "::ffff:10.0.0.1" }, errdefs.IsInvalidArgument, "must be written as 10.0.0.1"},
		{"an IPv6 address at length", func(_ *rig, q *swarmv1.JoinRequest) { q.Addr = "fd00:0::1" }, errdefs.IsInvalidArgument, "must be written as fd00::1"},
		{"a data path on loopback", func(_ *rig, q *swarmv1.JoinRequest) { q.DataPathAddr = "::1" }, errdefs.IsInvalidArgument, "--data-path-addr"},
		{"an availability of its own", func(_ *rig, q *swarmv1.JoinRequest) { q.Availability = 77 }, errdefs.IsInvalidArgument, "availability 77"},
		{"a build of two lines", func(_ *rig, q *swarmv1.JoinRequest) { q.Build = "v1\nv2" }, errdefs.IsInvalidArgument, "build"},
		{"a long build", func(_ *rig, q *swarmv1.JoinRequest) { q.Build = strings.Repeat("v", 200) }, errdefs.IsInvalidArgument, "build"},
		{"a huge certificate request", func(_ *rig, q *swarmv1.JoinRequest) { q.Csr = make([]byte, 8<<10) }, errdefs.IsInvalidArgument, "certificate request"},
		{"a key of another kind", func(_ *rig, q *swarmv1.JoinRequest) { q.Csr = []byte("no") }, errdefs.IsInvalidArgument, "certificate request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				req := r.request()
				tt.edit(r, req)
				nodes := r.store.View().Nodes.Len()
				_, err := r.joinWorker(req)
				if err == nil || !tt.class(err) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want a line that says %q", err, tt.says)
				}
				if got := r.store.View().Nodes.Len(); got != nodes {
					t.Errorf("%d nodes after a refusal, want %d", got, nodes)
				}
			})
		})
	}
}

func (r *rig) clusterPort(port uint32) {
	r.t.Helper()
	c := r.store.View().Cluster().CloneVT()
	c.Spec.Network.ClusterPort = port
	if _, err := r.store.Commit(r.t.Context(), "test", table.Update(c)); err != nil {
		r.t.Fatal(err)
	}
}

// Nodes block the access of containers to the cluster ports of other nodes, so a worker may use
// only the port of the cluster or of a manager.
func TestJoin_Ports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		join := func(role swarmv1.NodeSpec_Role, n int, port uint32) error {
			req := r.request()
			req.MachineId, req.Hostname, req.Addr, req.Port = fmt.Sprint("machine-", n), fmt.Sprint("host-", n), fmt.Sprint("10.0.0.", n), port
			_, err := r.joinAs(role, req)
			return err
		}
		for i, err := range []error{
			join(swarmv1.NodeSpec_MANAGER, 10, 3377), join(swarmv1.NodeSpec_WORKER, 11, 3377), join(swarmv1.NodeSpec_WORKER, 12, 2377),
		} {
			if err != nil {
				t.Errorf("join %d: %v", i, err)
			}
		}
		if err := join(swarmv1.NodeSpec_WORKER, 13, 4377); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a worker with a port of its own: %v", err)
		}
	})
}

func (r *rig) rotate(worker, manager bool) {
	r.t.Helper()
	c := r.store.View().Cluster().CloneVT()
	if err := ca.RotateTokens(c.RootCa, worker, manager); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.store.Commit(r.t.Context(), "test", table.Update(c)); err != nil {
		r.t.Fatal(err)
	}
}

func TestRotateTokens_ReplacesOnlyWhatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		before := proto.CloneOf(r.tokens())
		r.rotate(true, false)
		if r.tokens().GetWorker() == before.GetWorker() || r.tokens().GetManager() != before.GetManager() {
			t.Error("rotating the worker token must change it, and no other")
		}
		if _, err := r.joinWorker(r.request()); err != nil {
			t.Errorf("join with the new token: %v", err)
		}
	})
}

func TestJoin_AHostWhoseNodeIsDownJoinsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first, err := r.joinWorker(r.request())
		if err != nil {
			t.Fatal(err)
		}
		r.report(first.GetNodeId())
		// ErrUnavailable makes the host repeat its request until the node is down.
		if _, err := r.joinWorker(r.request()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), first.GetNodeId()) {
			t.Errorf("second join of a node that is not down: got %v, want ErrUnavailable", err)
		}
		r.setState(first.GetNodeId(), swarmv1.NodeState_DOWN)
		second, err := r.joinWorker(r.request())
		if err != nil || second.GetNodeId() == first.GetNodeId() {
			t.Errorf("join of a host whose node is down: %v, %v; want a new id", second.GetNodeId(), err)
		}
	})
}

// report opens the first session of a node.
func (r *rig) report(id string) {
	r.t.Helper()
	row, _ := r.store.View().NodeStates.Get(id)
	row = row.CloneVT()
	row.SessionEpoch = 1
	if _, err := r.store.Commit(r.t.Context(), "test", table.Update(row)); err != nil {
		r.t.Fatal(err)
	}
}

// A join that fails after the answer of the manager, or whose answer is lost, is tried again, and
// leaves no extra node behind.
func TestJoin_AgainAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, down := range []bool{false, true} {
			first, err := r.joinWorker(r.request())
			if err != nil {
				t.Fatal(err)
			}
			if down {
				r.setState(first.GetNodeId(), swarmv1.NodeState_DOWN)
			}
			second, err := r.joinWorker(r.request())
			if err != nil {
				t.Fatalf("second try: %v", err)
			}
			v := r.store.View()
			_, node := v.Nodes.Get(first.GetNodeId())
			_, state := v.NodeStates.Get(first.GetNodeId())
			if node || state || v.Nodes.Len() != 2 || v.NodeStates.Len() != 2 {
				t.Errorf("down %t: %d nodes, %d states, the first still there: %t, %t", down, v.Nodes.Len(), v.NodeStates.Len(), node, state)
			}
			if _, ok := v.Nodes.Get(second.GetNodeId()); !ok {
				t.Error("the second try is no node")
			}
		}
		// Another host with that machine id still counts as a clone, and another machine at that
		// address is still refused.
		for says, edit := range map[string]func(*swarmv1.JoinRequest){
			"cloned disk":      func(q *swarmv1.JoinRequest) { q.Addr, q.Hostname = "10.0.0.9", "host-9" },
			"--advertise-addr": func(q *swarmv1.JoinRequest) { q.MachineId = "machine-9" },
		} {
			req := r.request()
			edit(req)
			if _, err := r.joinWorker(req); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want a refusal that says %q", err, says)
			}
		}
	})
}

// A host that joins has a row before it reports. Another holder of the token at another address
// cannot replace it by claiming its data.
func TestJoin_ReplacesNoOtherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		token, _ := pki.ParseToken(r.tokens().GetWorker())
		join := func(from string) (string, error) {
			answer, err := r.server.Join(r.as(t.Context(), token, netip.MustParseAddr(from)), r.request())
			return answer.GetNodeId(), err
		}
		id, err := join("2001:db8::7")
		if err != nil {
			t.Fatal(err)
		}
		if st, _ := r.store.View().NodeStates.Get(id); st.GetAddr() != "2001:db8::7" {
			t.Errorf("the node's address is %s, want the one that it called from", st.GetAddr())
		}
		if _, err := join("2001:db8:1::7"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("another host with its words: %v, want a refusal", err)
		}
		if _, ok := r.store.View().Nodes.Get(id); !ok {
			t.Error("the node that has just joined is gone")
		}
		if _, err := join("2001:db8::8"); err != nil {
			t.Errorf("the host itself, which has another address of its network now: %v", err)
		}
	})
}

// A holder of a join token can make a limited number of nodes that do not exist. A host whose
// answer was lost replaces its own node.
func TestJoin_BoundsThoseThatNeverReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		token, _ := pki.ParseToken(r.tokens().GetWorker())
		join := func(i int, from string) (string, error) {
			req := r.request()
			req.MachineId, req.Hostname, req.Addr = fmt.Sprintf("ghost-%d", i), fmt.Sprintf("ghost-%d", i), fmt.Sprintf("10.9.%d.1", i)
			answer, err := r.server.Join(r.as(t.Context(), token, netip.MustParseAddr(from)), req)
			return answer.GetNodeId(), err
		}
		admitted, first := 0, ""
		for i := range 100 {
			id, err := join(i, fmt.Sprintf("192.0.2.%d", i/50))
			switch {
			case err == nil:
				admitted++
				if first == "" {
					first = id
				}
			case !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "swarm node rm"):
				t.Errorf("got %v, want a refusal that says what to do", err)
			}
		}
		if admitted > 64 || admitted < 60 {
			t.Errorf("%d of 100 were admitted, want 64 at most", admitted)
		}
		if _, err := join(0, "192.0.2.0"); !errdefs.IsResourceExhausted(err) && err != nil {
			t.Errorf("a host that asks again: %v", err)
		}
	})
}

// A node that opened one session and went away counts like a node that never reported. The joins of
// one origin are limited even if the nodes stay.
func TestJoin_BoundsGuests(t *testing.T) {
	for name, up := range map[string]time.Duration{"guests": time.Second, "nodes that stay": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				token, _ := pki.ParseToken(r.tokens().GetWorker())
				admitted := 0
				for i := range 150 {
					req := r.request()
					req.MachineId, req.Hostname, req.Addr = fmt.Sprintf("ghost-%d", i), fmt.Sprintf("ghost-%d", i), fmt.Sprintf("10.9.%d.1", i)
					answer, err := r.server.Join(r.as(t.Context(), token, netip.MustParseAddr("192.0.2.1")), req)
					if err != nil {
						if !errdefs.IsResourceExhausted(err) {
							t.Fatal(err)
						}
						continue
					}
					admitted++
					st, _ := r.store.View().NodeStates.Get(answer.GetNodeId())
					st = st.CloneVT()
					st.State, st.SessionEpoch, st.Up = swarmv1.NodeState_DOWN, 1, durationpb.New(up)
					if _, err := r.store.Commit(t.Context(), "test", table.Update(st)); err != nil {
						t.Fatal(err)
					}
				}
				if most := map[bool]int{true: 32, false: 66}[up < time.Minute]; admitted > most || admitted < most-3 {
					t.Errorf("%d of 150 hosts joined, want %d", admitted, most)
				}
			})
		})
	}
}

// A node may renew a few times at once, as after lost answers, but not without limit.
func TestRenew_IsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id, cert := r.join()
		renewed := func() (n int) {
			for range 50 {
				_, err := r.renew(holder(t, id, cert, time.Now().Add(time.Hour)))
				switch {
				case err == nil:
					n++
				case !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "try again in"):
					t.Errorf("got %v, want a refusal for a while", err)
				}
			}
			return n
		}
		if n := renewed(); n < 10 || n > 12 {
			t.Errorf("%d renewals of 50, want 10", n)
		}
		time.Sleep(20 * time.Second)
		if n := renewed(); n == 0 || n > 4 {
			t.Errorf("%d renewals after a pause, want 2", n)
		}
		before := r.server.LeaderQueries()
		for range 50 {
			if _, err := r.renew(holder(t, "zzzzzzzzzzzzzzzzzzzzzzzzz", cert, time.Now().Add(time.Hour))); err == nil {
				t.Error("a removed node renews")
			}
		}
		if asked := r.server.LeaderQueries() - before; asked > 11 {
			t.Errorf("a removed node made %d questions to the leader", asked)
		}
	})
}
