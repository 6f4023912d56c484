package object

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// FindRunning returns the task in which a command shall run. If ref is the id of a task or the
// beginning of an id, FindRunning returns that task, whatever its state is. If ref is the name of a
// task or a service, FindRunning chooses from the tasks of that slot or service: a RUNNING task, or
// a STARTING one if none is RUNNING, with the lowest slot. It returns ErrFailedPrecondition if
// there is none.
func FindRunning(v *table.View, ref string) (*swarmv1.Task, error) {
	found, err := crud.FindAny(ref, Tasks().In(v), Services().In(v))
	if err != nil {
		return nil, err
	}
	t, isTask := found.(*swarmv1.Task)
	if isTask && strings.HasPrefix(t.GetId(), ref) {
		return t, nil
	}
	tasks := v.TasksOfService(found.GetId())
	if isTask {
		tasks = TasksNamed(v, ref)
	}
	sorted := slices.SortedFunc(tasks, func(a, b *swarmv1.Task) int {
		return cmp.Or(cmp.Compare(execRank(v, a), execRank(v, b)), cmp.Compare(a.GetSlot(), b.GetSlot()), cmp.Compare(a.GetId(), b.GetId()))
	})
	if len(sorted) == 0 || execRank(v, sorted[0]) == rankNone {
		if isTask {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s does not run: see `swarm service ps %s`", ref, ServiceName(v, t.GetServiceId())))
		}
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("service %s has no running task: see `swarm service ps %s`", ref, ref))
	}
	return sorted[0], nil
}

// The ranks of tasks as places for a command, the best first.
const (
	rankRunning = iota
	rankStarting
	rankNone // no command can run in the task
)

// execRank returns the rank of a task as a place for a command.
func execRank(v *table.View, t *swarmv1.Task) int {
	switch v.Status(t.GetId()).GetState() {
	case swarmv1.TaskState_RUNNING:
		return rankRunning
	case swarmv1.TaskState_STARTING:
		return rankStarting
	}
	return rankNone
}
