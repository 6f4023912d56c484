package directory

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	swarmv1 "swarm/proto/swarm/v1"
)

func peering(id, addr string) *swarmv1.AssignmentChange {
	return put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Peering{Peering: &swarmv1.Peering{NodeId: id, Addr: addr}}})
}

func routing(id string, vips ...*swarmv1.VirtualIP) *swarmv1.AssignmentChange {
	return put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{
		ServiceId: id, Name: id, Endpoint: &swarmv1.Endpoint{ServiceId: id, VirtualIps: vips},
	}}})
}

func backend(id, service, node string, ready bool, network, addr string) *swarmv1.AssignmentChange {
	return put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Backend{Backend: &swarmv1.Backend{
		TaskId: id, ServiceId: service, NodeId: node, Ready: ready,
		Networks: []*swarmv1.NetworkAttachment{{NetworkId: network, Addresses: []string{addr}}},
	}}})
}

func put(a *swarmv1.Assignment) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Put{Put: a}}
}

func gone(kind swarmv1.AssignmentRef_Kind, id string) *swarmv1.AssignmentChange {
	return &swarmv1.AssignmentChange{Change: &swarmv1.AssignmentChange_Remove{Remove: &swarmv1.AssignmentRef{Kind: kind, Id: id}}}
}

// testDirectory has five nodes n0 (this node) to n4, and service web with a task on each.
func testDirectory() *Directory {
	d := New("n0")
	changes := []*swarmv1.AssignmentChange{routing("web", &swarmv1.VirtualIP{NetworkId: "net", Addr: "10.0.1.2/24"})}
	for i := range 5 {
		node := fmt.Sprintf("n%d", i)
		changes = append(changes, peering(node, fmt.Sprintf("192.0.2.%d", i+1)),
			backend(fmt.Sprintf("t%d", i), "web", node, true, "net", fmt.Sprintf("10.0.1.%d/24", i+10)))
	}
	d.Apply(changes)
	d.Take()
	return d
}

func backends(d *Directory, service string) []string {
	s, _ := d.Service(service)
	var out []string
	for _, b := range s.Backends {
		out = append(out, b.GetTaskId())
	}
	return out
}

func TestApply_Changes(t *testing.T) {
	for _, tt := range []struct {
		name      string
		change    *swarmv1.AssignmentChange
		networks  []string
		endpoints []string
		services  []string
		nodes     bool
	}{
		{"no longer ready", backend("t1", "web", "n1", false, "net", "10.0.1.11/24"), nil, nil, []string{"web"}, false},
		{"moved", backend("t1", "web", "n2", true, "net", "10.0.1.11/24"), nil, []string{"net/t1"}, []string{"web"}, false},
		{"on another network", backend("t1", "web", "n1", true, "blue", "10.0.1.11/24"), nil, []string{"blue/t1", "net/t1"}, []string{"web"}, false},
		{"added", backend("t9", "web", "n1", true, "net", "10.0.1.19/24"), nil, []string{"net/t9"}, []string{"web"}, false},
		{"removed", gone(swarmv1.AssignmentRef_BACKEND, "t1"), nil, []string{"net/t1"}, []string{"web"}, false},
		{"other service", backend("t1", "db", "n1", true, "net", "10.0.1.11/24"), nil, nil, []string{"db", "web"}, false},
		{"node moved", peering("n1", "192.0.2.99"), []string{"net"}, nil, nil, true},
		{"node unchanged", peering("n1", "192.0.2.2"), nil, nil, nil, false},
		{"service removed", gone(swarmv1.AssignmentRef_ROUTING, "web"), nil, nil, []string{"web"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := testDirectory()
			d.Take()
			changed := d.Changed()
			d.Apply([]*swarmv1.AssignmentChange{tt.change})
			got := d.Take()
			if diff := cmp.Diff(tt.networks, slices.Sorted(maps.Keys(got.Networks))); diff != "" {
				t.Errorf("networks: %s", diff)
			}
			var endpoints []string
			for network, tasks := range got.Endpoints {
				for id := range tasks {
					endpoints = append(endpoints, network+"/"+id)
				}
			}
			slices.Sort(endpoints)
			if diff := cmp.Diff(tt.endpoints, endpoints); diff != "" {
				t.Errorf("endpoints: %s", diff)
			}
			if diff := cmp.Diff(tt.services, slices.Sorted(maps.Keys(got.Services))); diff != "" {
				t.Errorf("services: %s", diff)
			}
			if got.Nodes != tt.nodes {
				t.Errorf("nodes: %v", got.Nodes)
			}
			select {
			case <-changed:
				if got.Empty() {
					t.Error("the channel was closed without a change")
				}
			default:
				if !got.Empty() {
					t.Error("the channel was not closed by a change")
				}
			}
		})
	}
}

func TestDeadNodes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		report Report
		want   []string
	}{
		{"none", Report{}, []string{"t0", "t1", "t2", "t3", "t4"}},
		{"one", Report{Dead: []string{"n1"}}, []string{"t0", "t2", "t3", "t4"}},
		{"half of the others", Report{Dead: []string{"n1", "n2"}}, []string{"t0", "t3", "t4"}},
		{"more than half: this node is cut off", Report{Dead: []string{"n1", "n2", "n3"}}, []string{"t0", "t1", "t2", "t3", "t4"}},
		{"this node is faulty", Report{Dead: []string{"n1"}, Faulty: true}, []string{"t0", "t1", "t2", "t3", "t4"}},
		{"three of four, all certain", Report{Dead: []string{"n1", "n2", "n3"}, Confirmed: []string{"n1", "n2", "n3"}}, []string{"t0", "t4"}},
		{"this node is faulty, one of two is certain", Report{Dead: []string{"n1", "n2"}, Confirmed: []string{"n2"}, Faulty: true}, []string{"t0", "t1", "t3", "t4"}},
		{"this node itself", Report{Dead: []string{"n0"}}, []string{"t0", "t1", "t2", "t3", "t4"}},
		{"unknown node", Report{Dead: []string{"n9"}}, []string{"t0", "t1", "t2", "t3", "t4"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := testDirectory()
			d.SetDead(tt.report)
			if diff := cmp.Diff(tt.want, backends(d, "web")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeadNodeReturns(t *testing.T) {
	d := testDirectory()
	d.SetDead(Report{Dead: []string{"n1"}})
	d.Take()
	d.SetDead(Report{Faulty: true})
	if c := d.Take(); !c.Services["web"] || len(c.Networks) > 0 {
		t.Errorf("changes: got %+v, want service web", c)
	}
	if got := backends(d, "web"); len(got) != 5 {
		t.Errorf("backends: got %v, want all five", got)
	}
}

func TestLastBackendIsKept(t *testing.T) {
	d := testDirectory()
	d.Apply([]*swarmv1.AssignmentChange{routing("db"), backend("d1", "db", "n1", true, "net", "10.0.1.20/24")})
	d.SetDead(Report{Dead: []string{"n1"}})
	if got := backends(d, "db"); !slices.Equal(got, []string{"d1"}) {
		t.Errorf("backends: got %v, want d1, because a report must not remove the last backend of a service", got)
	}
}

func TestRemoteEndpoints(t *testing.T) {
	d := testDirectory()
	d.Apply([]*swarmv1.AssignmentChange{gone(swarmv1.AssignmentRef_PEERING, "n4"), backend("t3", "web", "n3", false, "net", "10.0.1.13/24")})
	var got []string
	for _, m := range d.Remote("net") {
		got = append(got, fmt.Sprint(m.TaskID, " ", m.Addresses, " at ", m.Underlay))
	}
	want := []string{"t1 [10.0.1.11] at 192.0.2.2", "t2 [10.0.1.12] at 192.0.2.3", "t3 [10.0.1.13] at 192.0.2.4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Remote must return endpoints that are not ready, and omit endpoints on unknown nodes: %s", diff)
	}
}

func TestRemoteOf(t *testing.T) {
	d := testDirectory()
	d.Apply([]*swarmv1.AssignmentChange{gone(swarmv1.AssignmentRef_PEERING, "n4"), gone(swarmv1.AssignmentRef_BACKEND, "t2")})
	there, left := d.RemoteOf("net", map[string]bool{"t0": true, "t1": true, "t2": true, "t4": true})
	if want := d.Remote("net")[:1]; want[0].TaskID != "t1" || !cmp.Equal(want, there, cmpopts.EquateComparable(netip.Addr{})) {
		t.Errorf("there: %v, want %v", there, want)
	}
	if want := []string{"t0", "t2", "t4"}; !slices.Equal(left, want) {
		t.Errorf("gone: got %v, want a local task, a task that has ended, and a task on an unknown node: %v", left, want)
	}
}

func TestServiceView(t *testing.T) {
	d := testDirectory()
	s, ok := d.Service("web")
	if !ok || s.Name != "web" || !slices.Equal(s.Networks(), []string{"net"}) {
		t.Errorf("service %+v", s)
	}
	if got := s.VIPs["net"]; !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24")}) {
		t.Errorf("vips %v", got)
	}
	if got := d.ServicesOn("net"); !slices.Equal(got, []string{"web"}) {
		t.Errorf("services %v", got)
	}
	d.Apply([]*swarmv1.AssignmentChange{gone(swarmv1.AssignmentRef_ROUTING, "web")})
	for i := range 5 {
		d.Apply([]*swarmv1.AssignmentChange{gone(swarmv1.AssignmentRef_BACKEND, fmt.Sprintf("t%d", i))})
	}
	if len(d.services)+len(d.tasks)+len(d.endpoints) != 0 {
		t.Errorf("after all was removed: got services %v, tasks %v, endpoints %v, want none", d.services, d.tasks, d.endpoints)
	}
}

func TestServiceWithoutTasksKeepsItsNames(t *testing.T) {
	d := New("n0")
	d.Apply([]*swarmv1.AssignmentChange{put(&swarmv1.Assignment{Object: &swarmv1.Assignment_Routing{Routing: &swarmv1.Routing{
		ServiceId: "db", Name: "db", Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net", Aliases: []string{"store"}}, {NetworkId: "other"}},
	}}})})
	s, _ := d.Service("db")
	if diff := cmp.Diff([]string{"net", "other"}, s.Networks()); diff != "" {
		t.Errorf("networks: %s", diff)
	}
	if got := d.ServicesOn("net"); !slices.Equal(got, []string{"db"}) || !slices.Equal(s.Aliases["net"], []string{"store"}) {
		t.Errorf("services on net: %v; aliases: %v", got, s.Aliases)
	}
	d.Apply([]*swarmv1.AssignmentChange{routing("db")})
	if got := d.ServicesOn("net"); len(got) != 0 {
		t.Errorf("services on a network that the service left: got %v", got)
	}
}
