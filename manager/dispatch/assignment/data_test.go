package assignment

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

// A node gets the versions of secrets and configs that its tasks name, before the tasks, and no
// others. When no task names a version any more, the node must drop it.
func TestSentSet_SendsTheVersionsOfTasks(t *testing.T) {
	revision := func(number uint64, refs ...*swarmv1.DataReference) *swarmv1.Revision {
		return &swarmv1.Revision{ServiceId: "s1", Number: number, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Secrets: refs},
		}}}
	}
	task := func(number, version uint64) []proto.Message {
		return []proto.Message{
			&swarmv1.Task{Id: "t1", ServiceId: "s1", Revision: number, NodeId: "n1", Meta: &swarmv1.Meta{Version: version}},
			&swarmv1.TaskStatus{TaskId: "t1", State: swarmv1.TaskState_RUNNING},
			&swarmv1.Task{Id: "t2", ServiceId: "s2", NodeId: "n2"}, &swarmv1.TaskStatus{TaskId: "t2", State: swarmv1.TaskState_RUNNING},
		}
	}
	rows := []proto.Message{
		revision(1, &swarmv1.DataReference{Id: "a", Number: 1}),
		revision(2, &swarmv1.DataReference{Id: "a", Number: 2, Previous: 1}, &swarmv1.DataReference{Id: "b", Number: 7}),
		revision(3, &swarmv1.DataReference{Id: "b", Number: 7}),
	}
	for id, last := range map[string]uint64{"a": 3, "b": 8} {
		for n := range last {
			rows = append(rows, &swarmv1.DataVersion{ObjectId: id, Number: n + 1, Data: []byte("x")})
		}
	}
	set := NewSentSet("n1", NewState())
	first := raftstoretest.View(slices.Concat(rows, task(1, 1))...)
	second := raftstoretest.View(slices.Concat(rows, task(2, 2))...)
	third := raftstoretest.View(slices.Concat(rows, task(3, 3))...)
	changed := []Ref{{Kind: swarmv1.AssignmentRef_TASK, ID: "t1"}}
	for i, c := range []struct {
		changes []*swarmv1.AssignmentChange
		want    []string
	}{
		{set.Complete(first), []string{"put a@1", "put t1"}},
		{set.Update(second, changed), []string{"put a@2", "put b@7", "put t1"}},
		{set.Update(third, changed), []string{"put t1", "remove a/0000000002", "remove a/0000000001"}},
	} {
		var got []string
		for _, change := range c.changes {
			switch o := change.GetPut().GetObject().(type) {
			case *swarmv1.Assignment_DataVersion:
				got = append(got, fmt.Sprintf("put %s@%d", o.DataVersion.GetObjectId(), o.DataVersion.GetNumber()))
			case *swarmv1.Assignment_Task:
				got = append(got, "put "+o.Task.GetId())
			}
			if r := change.GetRemove(); r.GetKind() == swarmv1.AssignmentRef_DATA_VERSION {
				got = append(got, "remove "+r.GetId())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("message %d: got %q, want %q", i+1, got, c.want)
		}
	}
}
