package planner

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// refuse reports that the worker could not apply the limits of the task's revision.
func (m *model) refuse(id string) {
	st := m.status(id).CloneVT()
	st.RefusedRevision = m.rows["5/"+id].(*swarmv1.Task).Revision
	m.put(st)
}

// alive returns the tasks that should run, with their revisions.
func (m *model) alive(service string) map[string]uint64 {
	out := map[string]uint64{}
	for _, t := range m.tasks() {
		if t.ServiceId == service && t.DesiredState <= swarmv1.TaskState_RUNNING {
			out[t.Id] = t.Revision
		}
	}
	return out
}

func limit(nanoCPUs, memory, pids int64) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Resources = &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{NanoCpus: nanoCPUs, MemoryBytes: memory, Pids: proto.Int64(pids)}}
	}
}

func TestPlan_LimitsChangeInPlace(t *testing.T) {
	for name, mode := range map[string]func(*swarmv1.ServiceSpec){"replicated": replicas(4), "global": global} {
		m := clusterOf(t, "a", "b")
		m.addService("web", mode)
		m.settle()
		first := m.alive("web")
		m.edit("web", limit(1e9, 1<<30, 10))
		m.settle()
		want := maps.Clone(first)
		for id := range want {
			want[id] = 2
		}
		if diff := cmp.Diff(want, m.alive("web")); diff != "" {
			t.Errorf("%s: tasks after an update of limits (-want +got):\n%s", name, diff)
		}
		if st := m.service("web").UpdateStatus; st != nil {
			t.Errorf("%s: update status: got %v, want none", name, st)
		}
		row := m.service("web").CloneVT() // a rollback
		row.Revision, row.PreviousRevision = 1, 2
		row.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_ROLLBACK_STARTED}
		m.put(row)
		m.pass(time.Minute)
		if diff := cmp.Diff(first, m.alive("web")); diff != "" {
			t.Errorf("%s: tasks after the roll back (-want +got):\n%s", name, diff)
		}
		if st := m.service("web").UpdateStatus; st.GetState() != swarmv1.UpdateStatus_ROLLBACK_COMPLETED {
			t.Errorf("%s: update status after the roll back: got %v", name, st)
		}
	}
}

func TestPlan_RefusedLimitsReplaceTheTask(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(2))
	m.settle()
	m.edit("web", limit(0, 1<<30, 0))
	m.settle()
	ids := m.tasks()
	m.refuse(ids[0].Id)
	m.pass(time.Minute)
	alive := m.alive("web")
	if _, same := alive[ids[0].Id]; same || len(alive) != 2 || alive[ids[1].Id] != 2 {
		t.Errorf("tasks: got %v, want %s replaced and %s as it was\n%s", alive, ids[0].Id, ids[1].Id, m)
	}
	if st := m.service("web").UpdateStatus; st.GetState() != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("update status: got %v, want COMPLETED", st)
	}
}

func TestPlan_ReservationsGrowWhereThereIsRoom(t *testing.T) {
	m := clusterOf(t, "a", "b") // 4 CPUs each
	m.addService("web", replicas(4), reserve(1e9, 0))
	m.settle()
	first := m.alive("web")
	m.edit("web", reserve(2e9, 0))
	m.settle()
	for id := range m.alive("web") {
		if first[id] == 0 {
			t.Fatalf("task %s is new: two of 2 CPUs fit a node of 4\n%s", id, m)
		}
	}
	// Each node has room for one task with 3 CPUs. The others wait and are updated one at a time.
	m.edit("web", reserve(3e9, 0))
	m.pass(time.Minute)
	kept, waiting := 0, 0
	for id, rev := range m.alive("web") {
		if first[id] != 0 && rev == 3 {
			kept++
		}
		if m.status(id).State == swarmv1.TaskState_PENDING {
			waiting++
		}
	}
	if kept != 1 || waiting != 1 {
		t.Errorf("changed in place: got %d, waiting: %d, want 1 of each\n%s", kept, waiting, m)
	}
	// Waiting tasks get room when other tasks reserve less.
	m.edit("web", reserve(1e9, 0))
	m.pass(time.Minute)
	if got := m.running("web"); got != 4 {
		t.Errorf("running with less reserved: got %d, want 4\n%s", got, m)
	}
}

func TestPlan_LimitsOfAJobRunNothingAgain(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("job", reserve(9e9, 0), func(s *swarmv1.ServiceSpec) {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{MaxConcurrent: 2, TotalCompletions: 2}}}
	})
	m.settle() // no node has 9 CPUs
	m.edit("job", reserve(1e9, 0))
	m.settle()
	if got := m.running("job"); got != 2 {
		t.Fatalf("running with less reserved: got %d, want 2\n%s", got, m)
	}
	was := m.alive("job")
	m.edit("job", limit(1e9, 0, 0))
	m.settle()
	for id, rev := range m.alive("job") {
		if was[id] == 0 || rev != 3 {
			t.Errorf("task %s of revision %d, want those that ran, of revision 3\n%s", id, rev, m)
		}
	}
	m.completes = func(*swarmv1.Task) bool { return true }
	m.settle()
	m.edit("job", limit(2e9, 0, 0))
	m.settle()
	if got := m.running("job"); got != 0 {
		t.Errorf("running after completion and another limit: got %d, want none\n%s", got, m)
	}
}

func TestPlan_OnlyTasksThatDoNotFitLeaveTheirNode(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.addService("web", replicas(3))
	m.settle()
	first := m.alive("web")
	m.edit("web", constraint("node.hostname!=c"))
	m.pass(time.Minute)
	stayed := 0
	for id, revision := range m.alive("web") {
		if revision != 2 {
			t.Errorf("task %s: got revision %d, want 2\n%s", id, revision, m)
		}
		if first[id] != 0 {
			stayed++
		}
	}
	if st := m.service("web").UpdateStatus; stayed != 2 || st.GetState() != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("got %d tasks that stayed and update status %v, want 2 and COMPLETED\n%s", stayed, st, m)
	}
	second := m.alive("web")
	m.edit("web", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.Placement = nil })
	m.settle()
	for id := range m.alive("web") {
		if second[id] == 0 {
			t.Errorf("task %s is new, although its predecessor fits the wider constraints\n%s", id, m)
		}
	}
	if st := m.service("web").UpdateStatus; st != nil {
		t.Errorf("update status after a change that moves no task: got %v, want none", st)
	}
}
