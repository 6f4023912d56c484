package tasks

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// restart starts the task's container again after it has ended, if no manager can replace the task.
// It returns false if the caller must report the end instead: the restart policy forbids a restart,
// there is a session with a manager, or the container could not be started.
func (t *taskLoop) restart(ctx context.Context, exit engine.Exit) bool {
	policy := t.revision.GetSpec().GetTaskTemplate().GetRestartPolicy()
	failed := exit.Code != 0 || exit.CodeUnknown
	switch {
	case t.revision == nil,
		t.revision.GetSpec().GetSingleWriter(),
		policy.GetCondition() == swarmv1.RestartPolicy_NONE,
		policy.GetCondition() == swarmv1.RestartPolicy_ON_FAILURE && !failed,
		policy.GetMaxAttempts() > 0 && uint64(t.restarts) >= policy.GetMaxAttempts():
		return false
	}
	delay := defaultRestartDelay
	if d := policy.GetDelay(); d != nil {
		delay = d.AsDuration()
	}
	if !t.r.deps.Managers.OutOfContact(ctx, delay) {
		return false
	}
	t.restarts++
	t.r.deps.Log.Info("no manager is reachable: starting the task again", "task", t.id, "err", describeExit(exit))
	err := t.untilAnswered(ctx, "remove container", func() error {
		return t.r.withPermit(ctx, func() error { return t.r.deps.Runtime.Remove(ctx, t.id) })
	})
	if err != nil {
		return false
	}
	t.prober, t.proberKnown = nil, false
	if err := t.createContainer(ctx); err != nil {
		return false
	}
	out := t.start(ctx)
	if out.event != task.Started {
		return false
	}
	t.restarted(out.pid)
	return true
}

// restarted reports that the task runs again.
func (t *taskLoop) restarted(pid uint32) {
	t.mu.Lock()
	s := t.status.CloneVT()
	s.Timestamp = timestamppb.Now()
	s.RunningSince = s.Timestamp
	s.ContainerStatus = &swarmv1.ContainerStatus{ContainerId: t.id, Pid: pid}
	t.status = s
	t.mu.Unlock()
	t.r.deps.Managers.Report(s, true)
}

// defaultRestartDelay is Docker's default.
const defaultRestartDelay = 5 * time.Second
