package dispatch

import (
	"testing"

	"swarm/manager/dispatch/assignment"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// A session may begin with a view that is newer than the one with which the follower of the store
// marks it next. The worker is not sent the older state, so that a task that was stopped or removed
// does not start again.
func TestSession_NeverGoesBack(t *testing.T) {
	task := func(id string, version uint64, desired swarmv1.TaskState) *swarmv1.Task {
		return &swarmv1.Task{Id: id, ServiceId: "s", Slot: 1, NodeId: "n", DesiredState: desired, Meta: &swarmv1.Meta{Version: version}}
	}
	older := table.ViewOf(task("t1", 5, swarmv1.TaskState_RUNNING))
	for name, newer := range map[string]*table.View{
		"stopped": table.ViewOf(task("t1", 9, swarmv1.TaskState_SHUTDOWN)),
		"removed": table.ViewOf(task("t2", 9, swarmv1.TaskState_RUNNING)),
	} {
		t.Run(name, func(t *testing.T) {
			x := newSession(nil, &swarmv1.NodeState{NodeId: "n", SessionEpoch: 1, Addr: "n"}, nil)
			x.newest = func() *table.View { return newer }
			out := assignment.NewSentSet("n", assignment.NewState())
			x.markAll(newer)
			out.Complete(x.take().view)
			x.mark(older, assignment.Ref{Kind: swarmv1.AssignmentRef_TASK, ID: "t1"})
			w := x.take()
			if w.view.Index() != 9 {
				t.Errorf("index %d follows 9", w.view.Index())
			}
			if changes := out.Update(w.view, w.dirty); len(changes) > 0 {
				t.Errorf("the worker is told %v", changes)
			}
		})
	}
}
