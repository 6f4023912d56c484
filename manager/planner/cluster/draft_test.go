package cluster_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"swarm/internal/publish"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// port8080 is the key of the host port that revision publishes.
var port8080 = publish.NodeKey("", &swarmv1.PortConfig{PublishedPort: 8080})

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// rows are those of one node with 4 CPUs, a GPU and a network, and of a service with one running
// task that has reserved a CPU.
func rows() []proto.Message {
	return []proto.Message{
		&swarmv1.Node{Id: "n1", Spec: &swarmv1.NodeSpec{}},
		&swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY, Description: &swarmv1.NodeDescription{Resources: &swarmv1.Resources{
			NanoCpus: 4e9, MemoryBytes: 8 << 30, Generic: []*swarmv1.GenericResource{{Kind: "gpu", Named: "gpu0"}},
		}}},
		&swarmv1.Network{Id: "net", Spec: &swarmv1.NetworkSpec{Name: "net"}, Ipam: &swarmv1.IPAMOptions{
			Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.0/29"}},
		}},
		&swarmv1.Service{Id: "web", Name: "web", Revision: 2},
		revision(1, 1e9),
		revision(2, 2e9),
		&swarmv1.Task{Id: "t1", ServiceId: "web", Revision: 1, Slot: 1, NodeId: "n1", DesiredState: swarmv1.TaskState_RUNNING},
		&swarmv1.TaskStatus{TaskId: "t1", State: swarmv1.TaskState_RUNNING},
	}
}

func revision(number uint64, nanoCPUs int64) *swarmv1.Revision {
	return &swarmv1.Revision{ServiceId: "web", Number: number, Template: number, Spec: &swarmv1.ServiceSpec{
		Name: "web",
		TaskTemplate: &swarmv1.TaskSpec{
			Networks: []*swarmv1.NetworkAttachmentConfig{{Target: "net"}},
			Resources: &swarmv1.ResourceRequirements{Reservations: &swarmv1.Resources{
				NanoCpus: nanoCPUs, Generic: []*swarmv1.GenericResource{{Kind: "gpu", Value: 1}},
			}},
		},
		EndpointSpec: &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}}},
	}}
}

// All that a draft gives away is visible in the State at once, and gone after Undo.
func TestDraft_UndoRestoresTheState(t *testing.T) {
	s := cluster.New(raftstoretest.View(rows()...))
	before := s.String()
	d := s.Draft()
	n, web := s.Node("n1"), s.Service("web")
	running := web.Slots()[0].Newest()

	generic := d.Place(web.Current(), n)
	if len(generic) != 1 || generic[0].GetNamed() != "gpu0" {
		t.Errorf("generic resources: got %v, want gpu0", generic)
	}
	if got := n.FreeCPU(); got != 1e9 {
		t.Errorf("free of 4 CPUs after reservations of 1 and 2: got %d", got)
	}
	if n.FreeGeneric("gpu") != 0 || !n.PortInUse(port8080) || n.TaskCount != 2 {
		t.Errorf("after Place: %d GPUs free, port in use %v, %d tasks", n.FreeGeneric("gpu"), n.PortInUse(port8080), n.TaskCount)
	}
	if !d.Resize(running, web.Current()) || n.FreeCPU() != 0 {
		t.Errorf("Resize from 1 to 2 CPUs with 1 free: %d free", n.FreeCPU())
	}
	if d.Resize(running, web.Current()) {
		t.Error("Resize reserves more than the node has")
	}
	if d.UndoResize(web); n.FreeCPU() != 1e9 {
		t.Errorf("after UndoResize: %d free, want 1 CPU", n.FreeCPU())
	}
	if !d.Resize(running, web.Current()) {
		t.Error("Resize after UndoResize finds no room")
	}
	// A plan may decide twice that a task stops: for its slot, and when it drops the slot.
	for range 2 {
		if d.Stop(running); web.TasksOn(n) != 0 || n.TaskCount != 1 {
			t.Errorf("after Stop: %d tasks of the service, %d of all", web.TasksOn(n), n.TaskCount)
		}
	}
	allocateAll(t, d, web.Current())
	if s.String() == before {
		t.Error("the draft has no effect")
	}
	d.Undo()
	if got := s.String(); got != before {
		t.Errorf("after Undo:\n%s\nwant\n%s", got, before)
	}
}

// allocateAll allocates the five addresses of the network.
func allocateAll(t *testing.T, d *cluster.Draft, rev *cluster.Revision) {
	t.Helper()
	for _, want := range []string{"10.0.1.2/29", "10.0.1.3/29", "10.0.1.4/29", "10.0.1.5/29", "10.0.1.6/29"} {
		found, problem := d.FindAddresses(rev)
		if len(found) != 1 || found[0].Prefix() != want || found[0].NetworkID() != "net" {
			t.Fatalf("addresses: got %v (%s), want %s", found, problem, want)
		}
		d.Allocate(found[0])
	}
	if found, problem := d.FindAddresses(rev); problem != "network net: no free address in 10.0.1.0/29: 5 of 5 in use" {
		t.Errorf("addresses of a full network: got %v (%s)", found, problem)
	}
	moved := d.MovedCursors()
	if len(moved) != 1 || moved[0].GetOwner() != "10.0.1.6" || len(d.MovedCursors()) != 0 {
		t.Errorf("moved cursors: got %v, want one at 10.0.1.6, once", moved)
	}
}

// A service is due after a change of its rows, after Retry, and when its deadline has passed.
func TestState_Due(t *testing.T) {
	s := cluster.New(raftstoretest.View(rows()...))
	due := func(now time.Time, want bool) {
		t.Helper()
		if got := s.Due(now); (len(got) == 1) != want {
			t.Errorf("due at %v: got %v, want %v", now.Sub(epoch), got, want)
		}
	}
	due(epoch, true)
	due(epoch, false)
	s.Retry("web")
	due(epoch, true)
	s.SetDeadline(s.Service("web"), epoch.Add(time.Minute))
	due(epoch.Add(59*time.Second), false)
	due(epoch.Add(time.Minute), true)
	if got := s.NextDeadline(); !got.Equal(epoch.Add(time.Minute)) {
		t.Errorf("next deadline: got %v", got)
	}
	s.SetDeadline(s.Service("web"), time.Time{})
	due(epoch.Add(time.Hour), false)
	s.Apply([]table.RowChange{{Old: nil, New: &swarmv1.TaskStatus{TaskId: "t1", State: swarmv1.TaskState_FAILED}}})
	due(epoch.Add(time.Hour), true)
}
