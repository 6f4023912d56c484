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

// FindRunning returns the task in which a command can run. A service stands for its running task
// with the lowest slot, and the name of a task for the running task of that slot. An id refers to
// that task alone, whatever its state is. It returns ErrFailedPrecondition if no task runs.
func FindRunning(v *table.View, ref string) (*swarmv1.Task, error) {
	found, err := crud.FindAny(ref, Tasks().In(v), Services().In(v))
	if err != nil {
		return nil, err
	}
	t, isTask := found.(*swarmv1.Task)
	if isTask && strings.HasPrefix(t.GetId(), ref) {
		return t, nil
	}
	of := v.TasksOfService(found.GetId())
	if isTask {
		of = TasksNamed(v, ref)
	}
	running := slices.SortedFunc(of, func(a, b *swarmv1.Task) int {
		return cmp.Or(cmp.Compare(starting(v, a), starting(v, b)), cmp.Compare(a.GetSlot(), b.GetSlot()), cmp.Compare(a.GetId(), b.GetId()))
	})
	if len(running) == 0 || starting(v, running[0]) > 1 {
		if isTask {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s does not run: see `swarm service ps %s`", ref, ServiceName(v, t.GetServiceId())))
		}
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("service %s has no running task: see `swarm service ps %s`", ref, ref))
	}
	return running[0], nil
}

// starting ranks tasks by how well a command can run in them: running, starting, not at all.
func starting(v *table.View, t *swarmv1.Task) int {
	switch v.Status(t.GetId()).GetState() {
	case swarmv1.TaskState_RUNNING:
		return 0
	case swarmv1.TaskState_STARTING:
		return 1
	}
	return 2
}
