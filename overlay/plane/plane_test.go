//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"swarm/overlay/bridge"
	"swarm/overlay/directory"
	swarmv1 "swarm/proto/swarm/v1"
)

func newRig() (*Plane, *directory.Directory, *kernel) {
	k := &kernel{fail: map[string]error{}}
	d := directory.New("n1")
	p := New(Deps{
		Log: slog.New(slog.DiscardHandler), Directory: d, Bridge: fakeBridge{k}, Fabric: fakeFabric{k}, Balancer: fakeBalancer{k},
		Names: fakeNames{k}, Mesh: func(uint32) Mesh { return fakeMesh{k} },
	})
	return p, d, k
}

// testCluster has task t1 of service web on this node and t2 on n2. Both are on network net.
func testCluster() []*swarmv1.AssignmentChange {
	return puts(
		&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: network()}},
		&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n2", Addr: "192.0.2.2"}}},
		&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web", Name: "web", Endpoint: &swarmv1.Endpoint{
			VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "net", Addr: "10.0.1.2/24"}},
		}}}},
		backend("t1", "n1", "10.0.1.3/24", true), backend("t2", "n2", "10.0.1.4/24", true),
	)
}

func network() *swarmv1.Network {
	return &swarmv1.Network{Id: "net", Vni: 65537, Spec: &swarmv1.NetworkSpec{Name: "net"}}
}

func backend(id, node, addr string, ready bool) *swarmv1.Assignment {
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{
		TaskId: id, ServiceId: "web", NodeId: node, Ready: ready,
		Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net", Addresses: []string{addr}}},
	}}}
}

func puts(objects ...*swarmv1.Assignment) []*swarmv1.AssignmentChange {
	var out []*swarmv1.AssignmentChange
	for _, o := range objects {
		out = append(out, &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: o}})
	}
	return out
}

func attachment() Attachment {
	return Attachment{TaskID: "t1", OnBridge: true, Overlays: []Overlay{{Network: network(), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.3/24")}}}}
}

// run runs the plane in a synctest bubble, on a host without tasks. calls waits until the plane is
// idle and returns the calls since the last time.
func run(t *testing.T, test func(p *Plane, d *directory.Directory, k *kernel, calls func() []string)) {
	runBeforeRestore(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		if err := p.Restore(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		calls()
		test(p, d, k, calls)
	})
}

// runBeforeRestore is like run, but Restore has not been called yet.
func runBeforeRestore(t *testing.T, test func(p *Plane, d *directory.Directory, k *kernel, calls func() []string)) {
	synctest.Test(t, func(t *testing.T) {
		p, d, k := newRig()
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		test(p, d, k, func() []string { synctest.Wait(); return k.take() })
		cancel()
		ended.Wait()
	})
}

func TestAttach_ConnectsTheTask(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		want := []string{"set-network net", "sync-members net [{t2 [10.0.1.4] 192.0.2.2}]", "set-service web 10.0.1.3=true 10.0.1.4=true"}
		if diff := cmp.Diff(want, calls()); diff != "" {
			t.Errorf("before the first task: %s", diff)
		}
		if _, err := p.Attach(context.Background(), attachment()); err != nil {
			t.Fatal(err)
		}
		want = []string{
			"attach-bridge t1", "attach-fabric t1 net eth0 [10.0.1.3/24]",
			"program /ns/t1 [{[10.0.1.2] [10.0.1.3 10.0.1.4]}]", "serve t1 [net]",
		}
		got := calls()
		slices.Sort(got) // only the call of the bridge has a fixed place, the first
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attach: %s", diff)
		}
		if err := p.Detach(context.Background(), "t1"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"remove-container t1", "forget /ns/t1", "detach-fabric t1", "detach-bridge t1"}, calls()); diff != "" {
			t.Errorf("detach: %s", diff)
		}
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false)))
		if got := calls(); !slices.Equal(got, []string{"set-service web 10.0.1.3=true 10.0.1.4=false"}) {
			t.Errorf("after the last task: %q", got)
		}
	})
}

func TestChangesReachAttachedTasks(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		if _, err := p.Attach(context.Background(), attachment()); err != nil {
			t.Fatal(err)
		}
		calls()
		for _, step := range []struct {
			name   string
			change func()
			want   []string
		}{
			{
				"not ready", func() { d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false))) },
				[]string{"set-service web 10.0.1.3=true 10.0.1.4=false", "update /ns/t1 [{[10.0.1.2] [10.0.1.3]}] []"},
			},
			{
				"removed: its connections are reset", func() {
					d.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_BACKEND, Id: "t2"}}}})
				},
				[]string{"update-endpoints net [] [t2]", "set-service web 10.0.1.3=true", "update /ns/t1 [{[10.0.1.2] [10.0.1.3]}] []", "reset /ns/t1 [10.0.1.4]"},
			},
			{
				"another", func() { d.Apply(puts(backend("t3", "n2", "10.0.1.5/24", true))) },
				[]string{
					"update-endpoints net [{t3 [10.0.1.5] 192.0.2.2}] []", "set-service web 10.0.1.3=true 10.0.1.5=true",
					"update /ns/t1 [{[10.0.1.2] [10.0.1.3 10.0.1.5]}] []",
				},
			},
			{
				"its node is dead", func() { d.SetDead(directory.Report{Dead: []string{"n2"}}) },
				[]string{"set-service web 10.0.1.3=true =false", "update /ns/t1 [{[10.0.1.2] [10.0.1.3]}] []"},
			},
			{
				"service removed", func() {
					d.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_ROUTING, Id: "web"}}}})
				},
				[]string{"remove-service net web", "update /ns/t1 [] [10.0.1.2]", "reset /ns/t1 [10.0.1.3 10.0.1.5]"},
			},
		} {
			step.change()
			if diff := cmp.Diff(step.want, calls()); diff != "" {
				t.Errorf("%s: %s", step.name, diff)
			}
		}
	})
}

func TestFailedChangeIsTriedAgain(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		if _, err := p.Attach(context.Background(), attachment()); err != nil {
			t.Fatal(err)
		}
		calls()
		k.mu.Lock()
		k.fail["update"] = errors.New("no buffer space")
		k.mu.Unlock()
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false)))
		calls()
		k.mu.Lock()
		delete(k.fail, "update")
		k.mu.Unlock()
		time.Sleep(retryInterval) // in the bubble
		if got := calls(); !slices.Contains(got, "program /ns/t1 [{[10.0.1.2] [10.0.1.3]}]") {
			t.Errorf("after a failure: %q", got)
		}
	})
}

// A round reports each network that it changed, until the host no longer uses the network.
func TestRoundDone_ByNetwork(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		var rounds []Round
		p.deps.RoundDone = func(r Round) {
			k.mu.Lock()
			defer k.mu.Unlock()
			rounds = append(rounds, r)
		}
		broken := errors.New("no buffer space")
		step := func(name string, change func(), want ...Round) {
			t.Helper()
			change()
			calls()
			k.mu.Lock()
			defer k.mu.Unlock()
			if diff := cmp.Diff(want, rounds, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			rounds = nil
		}
		other := network()
		other.Id, other.Spec.Name = "other", "other"
		step("networks", func() {
			d.Apply(append(testCluster(), puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: other}})...))
		}, Round{Networks: map[string]error{"net": nil, "other": nil}})
		k.mu.Lock()
		k.fail["update-endpoints"] = broken
		k.mu.Unlock()
		step("a member", func() { d.Apply(puts(backend("t3", "n2", "10.0.1.5/24", true))) },
			Round{Networks: map[string]error{"net": broken}})
		step("the whole network again", func() { time.Sleep(retryInterval) }, Round{Networks: map[string]error{"net": nil}})
		step("removed", func() {
			d.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_NETWORK, Id: "other"}}}})
		}, Round{Networks: map[string]error{}, Gone: []string{"other"}})
	})
}

// The plane sends only the members that changed, and all members after a failure.
func TestFailureSendsAllEndpoints(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		calls()
		k.mu.Lock()
		k.fail["update-endpoints"] = errors.New("no buffer space")
		k.mu.Unlock()
		d.Apply(puts(backend("t3", "n2", "10.0.1.5/24", true)))
		if got := calls(); !slices.Contains(got, "update-endpoints net [{t3 [10.0.1.5] 192.0.2.2}] []") {
			t.Errorf("a member was added: %q", got)
		}
		time.Sleep(retryInterval) // in the bubble
		if got := calls(); !slices.Contains(got, "sync-members net [{t2 [10.0.1.4] 192.0.2.2} {t3 [10.0.1.5] 192.0.2.2}]") {
			t.Errorf("after a failure: %q", got)
		}
	})
}

// The bridge gets the ports on which nodes serve the cluster, and gets them again after a change.
func TestBridgeGuardsPorts(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		setPeer := func(node *swarmv1.Peering) string {
			d.Apply(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: node}}))
			calls()
			k.mu.Lock()
			defer k.mu.Unlock()
			return fmt.Sprint(k.blocked)
		}
		setPeer(&swarmv1.Peering{NodeId: "n1", Addr: "192.0.2.1", Port: 2377})
		if got := setPeer(&swarmv1.Peering{NodeId: "n3", Addr: "192.0.2.3", Port: 2377}); got != "[2377]" {
			t.Errorf("two nodes, one port: got %s", got)
		}
		if got := setPeer(&swarmv1.Peering{NodeId: "n2", Port: 2378}); got != "[2377 2378]" {
			t.Errorf("another port: got %s", got)
		}
	})
}

// Only one round sees that a service stopped to publish a port. If that round fails, the port must
// still be closed later.
func TestFailureClosesThePortLater(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		node := &swarmv1.Peering{NodeId: "n1", Addr: "192.0.2.1", MeshAddresses: []string{"10.0.0.2/24"}}
		d.Apply(puts(
			&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "in", Vni: 65536, Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}}}},
			&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: node}},
			&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web", Name: "web", Endpoint: &swarmv1.Endpoint{
				Ports: []*swarmv1.PortConfig{{PublishedPort: 80, TargetPort: 8080}},
			}}}}))
		calls()
		k.mu.Lock()
		k.fail["mesh"] = errors.New("no buffer space")
		k.mu.Unlock()
		d.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_ROUTING, Id: "web"}}}})
		calls()
		k.mu.Lock()
		clear(k.fail)
		k.mu.Unlock()
		time.Sleep(retryInterval) // in the bubble
		if got := calls(); !slices.Contains(got, "mesh") {
			t.Errorf("after a failure %q, want a mesh without ports", got)
		}
	})
}

// A host reports a port as a conflict if it cannot serve the port. A single failure is not
// reported.
func TestRepeatedFailureIsAConflict(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(puts(
			&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: &swarmv1.Network{Id: "in", Vni: 65536, Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}}}},
			&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: "n1", Addr: "192.0.2.1", MeshAddresses: []string{"10.0.0.2/24"}}}}))
		calls()
		cannot := errors.New("operation not supported")
		k.mu.Lock()
		k.fail["mesh"] = cannot
		k.mu.Unlock()
		d.Apply(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web", Name: "web", Endpoint: &swarmv1.Endpoint{
			Ports: []*swarmv1.PortConfig{{PublishedPort: 80, TargetPort: 8080}},
		}}}}))
		calls()
		if got := p.Conflicts(); len(got) != 0 {
			t.Errorf("after one failure: %v", got)
		}
		time.Sleep(retryInterval) // in the bubble
		calls()
		if got := p.Conflicts(); len(got) != 1 || got[0].Published != 80 || !errors.Is(got[0].Err, cannot) || got[0].AddressMissing {
			t.Errorf("after two failures: %v", got)
		}
		k.mu.Lock()
		clear(k.fail)
		k.mu.Unlock()
		time.Sleep(retryInterval)
		calls()
		if got := p.Conflicts(); len(got) != 0 {
			t.Errorf("after a success: %v", got)
		}
	})
}

func TestPublished_Address(t *testing.T) {
	p, d, _ := newRig()
	d.Apply(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web", Name: "web", Endpoint: &swarmv1.Endpoint{
		Ports: []*swarmv1.PortConfig{
			{PublishedPort: 80, TargetPort: 8080, HostIp: "0.0.0.0"},
			{PublishedPort: 81, TargetPort: 8080, HostIp: "::"},
			{PublishedPort: 82, TargetPort: 8080, HostIp: "::ffff:192.0.2.7", MeshPort: 65535},
		},
	}}}}))
	s, _ := d.Service("web")
	var got []string
	for _, one := range p.published(s, nil) {
		got = append(got, fmt.Sprint(one.IP, one.Published, one.MeshPort))
	}
	if diff := cmp.Diff([]string{"invalid IP 80 0", "invalid IP 81 0", "192.0.2.7 82 65535"}, got); diff != "" {
		t.Errorf("-want +got: %s", diff)
	}
}

// Neither a broken namespace of one task nor a failing mesh stops another task from starting.
func TestAttach_IgnoresFailuresElsewhere(t *testing.T) {
	p, d, k := newRig()
	d.Apply(testCluster())
	k.fail["sync-members"] = errors.New("no")
	if _, err := p.Attach(context.Background(), attachment()); err != nil {
		t.Error(err)
	}
}

func TestFailedAttachDetaches(t *testing.T) {
	p, d, k := newRig()
	d.Apply(testCluster())
	for _, piece := range []string{"attach-fabric", "program", "serve"} {
		k.fail = map[string]error{piece: errors.New("no")}
		if _, err := p.Attach(context.Background(), attachment()); err == nil {
			t.Errorf("%s failed, but Attach returned no error", piece)
		}
		if got := k.take(); !slices.Equal(got[len(got)-2:], []string{"detach-fabric t1", "detach-bridge t1"}) {
			t.Errorf("%s: %q", piece, got)
		}
	}
}

func TestRestoreProgramsAll(t *testing.T) {
	runBeforeRestore(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		d.Apply(testCluster())
		if early := calls(); len(early) > 0 {
			t.Errorf("calls before Restore: %q", early)
		}
		if err := p.Restore(context.Background(), []Existing{{attachment(), bridge.Result{Netns: "/ns/t1"}}}); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"restore-bridge 1", "restore-fabric 1", "set-container t1", "set-network net", "sync-members net [{t2 [10.0.1.4] 192.0.2.2}]",
			"set-service web 10.0.1.3=true 10.0.1.4=true",
			"program /ns/t1 [{[10.0.1.2] [10.0.1.3 10.0.1.4]}]",
		}
		if diff := cmp.Diff(want, calls()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPublishedPorts(t *testing.T) {
	run(t, func(p *Plane, d *directory.Directory, k *kernel, calls func() []string) {
		published := &swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{ServiceId: "web", Name: "web", Endpoint: &swarmv1.Endpoint{
			Ports: []*swarmv1.PortConfig{
				{PublishedPort: 80, TargetPort: 8080}, {PublishedPort: 81, TargetPort: 8081, PublishMode: swarmv1.PortConfig_HOST},
			},
		}}}}
		peer := func(id, addr, mesh string) *swarmv1.Assignment {
			return &swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: id, Addr: addr, MeshAddresses: []string{mesh}}}}
		}
		ingress := &swarmv1.Network{Id: "in", Vni: 65536, Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}}
		d.Apply(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Network{Network: ingress}}, published,
			peer("n1", "192.0.2.1", "10.0.0.2/24"), peer("n2", "192.0.2.2", "10.0.0.3/24"), backend("t2", "n2", "10.0.1.4/24", true)))
		meshed := func() string {
			for _, line := range calls() {
				if strings.HasPrefix(line, "mesh") {
					return line
				}
			}
			return ""
		}
		if got := meshed(); got != "mesh 80/tcp>8080 [{n2 []}]" {
			t.Errorf("a backend on another node: %q", got)
		}
		d.Apply(puts(backend("t1", "n1", "10.0.1.3/24", false))) // A task that is assigned to this node.
		calls()
		a := Attachment{TaskID: "t1", OnBridge: true}
		if _, err := p.Attach(context.Background(), a); err != nil {
			t.Fatal(err)
		}
		if got := meshed(); got != "mesh 80/tcp>8080 [{n2 []}]" {
			t.Errorf("a local task that may not listen yet, and a backend on another node: %q", got)
		}
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", false)))
		if got := meshed(); got != "mesh 80/tcp>8080 [] or [{n1 [172.30.0.9]}]" {
			t.Errorf("a local task that other hosts may learn to be a backend earlier: %q", got)
		}
		d.Apply(puts(backend("t2", "n2", "10.0.1.4/24", true)))
		calls()
		d.Apply(puts(backend("t1", "n1", "10.0.1.3/24", true)))
		if got := meshed(); got != "mesh 80/tcp>8080 [{n1 [172.30.0.9]} {n2 []}]" {
			t.Errorf("a local backend: %q", got)
		}
		d.Apply(puts(backend("t1", "n1", "10.0.1.3/24", false)))
		if got := meshed(); got != "mesh 80/tcp>8080 [{n2 []}] or [{n1 [172.30.0.9]}]" {
			t.Errorf("a local task that is no longer a backend: %q", got)
		}
		if err := p.Detach(context.Background(), "t1"); err != nil {
			t.Fatal(err)
		}
		calls()
		d.Apply([]*swarmv1.AssignmentChange{{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: swarmv1.AssignmentRef_BACKEND, Id: "t1"}}}})
		if got := calls(); !slices.Contains(got, "mesh reset [172.30.0.9]") {
			t.Errorf("connections to a task that has ended were not reset: %q", got)
		}
	})
}
