package placement

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// nodes returns a State with a service, whose tasks reserve one CPU and spread over zones, and with
// nodes that have two CPUs, each in its zone.
func nodes(zones ...string) *cluster.State {
	list := []proto.Message{
		&swarmv1.Service{Id: "web", Name: "web", Revision: 1},
		&swarmv1.Revision{ServiceId: "web", Number: 1, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
			Resources: &swarmv1.ResourceRequirements{Reservations: &swarmv1.Resources{NanoCpus: 1e9}},
			Placement: &swarmv1.Placement{Preferences: []*swarmv1.PlacementPreference{{
				Preference: &swarmv1.PlacementPreference_Spread{Spread: &swarmv1.SpreadOver{SpreadDescriptor: "node.labels.zone"}},
			}}},
		}}},
	}
	for i, zone := range zones {
		id := fmt.Sprintf("n%d", i+1)
		list = append(list,
			&swarmv1.Node{Id: id, Hostname: id, Spec: &swarmv1.NodeSpec{Labels: map[string]string{"zone": zone}}},
			&swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY, Description: &swarmv1.NodeDescription{Resources: &swarmv1.Resources{NanoCpus: 2e9}}})
	}
	return cluster.New(raftstoretest.View(list...))
}

func TestFinder_SpreadsAndExplains(t *testing.T) {
	s := nodes("a", "a", "b")
	web, d, f := s.Service("web"), s.Draft(), NewFinder(s)
	f.Begin(web, now)
	for i, want := range []string{"n1", "n3", "n2", "n3", "n1", "n2"} {
		n, why := f.Find(web.Current(), cluster.SlotKey{Number: 1}, nil)
		if n == nil || n.ID != want {
			t.Fatalf("task %d: got %v (%v), want %s", i+1, n, why, want)
		}
		d.Place(web.Current(), n)
	}
	n, why := f.Find(web.Current(), cluster.SlotKey{Number: 1}, nil)
	if n != nil {
		t.Fatalf("a full cluster has room on %s", n.ID)
	}
	if want := "no suitable node (insufficient resources on 3 nodes)"; why.Err != want {
		t.Errorf("why: got %q, want %q", why.Err, want)
	}
	if got, want := why.Unplaced.GetNearest(), "n1: needs 1 CPU, 0 free"; got != want {
		t.Errorf("nearest miss: got %q, want %q", got, want)
	}
	if _, why := f.Find(web.Current(), cluster.SlotKey{Number: 1}, s.Node("n3")); why.Err != "no suitable node (insufficient resources on 1 node)" {
		t.Errorf("why the only node allowed has no room: got %q", why.Err)
	}
	if !why.RetryAt.IsZero() {
		t.Errorf("retry at %v, want never: no image is missing", why.RetryAt)
	}
}

// The memory that the services of all plans share holds no nodes between plans.
func TestFinder_EndKeepsNoReferences(t *testing.T) {
	s := nodes("a", "a", "b")
	web, f := s.Service("web"), NewFinder(s)
	rev := *web.Current()
	rev.Spread = nil
	f.Begin(web, now)
	if n, why := f.Find(&rev, cluster.SlotKey{Number: 1}, nil); n == nil {
		t.Fatalf("no node: %v", why)
	}
	f.End()
	if cap(f.spare) == 0 {
		t.Fatal("the memory of the last placer is not kept")
	}
	for _, c := range f.spare[:cap(f.spare)] {
		if c.node != nil {
			t.Errorf("node %s is kept", c.node.ID)
		}
	}
	if len(f.found)+len(f.placers) != 0 || f.service != nil || f.noImage != nil {
		t.Errorf("kept: %+v", f)
	}
	for _, p := range f.placers[:cap(f.placers)] {
		if p != nil {
			t.Error("a placer is kept")
		}
	}
}
