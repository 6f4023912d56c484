package tasks

import (
	"context"
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
)

// applyRevision gives the running container what its task's revision changes while it runs: limits
// at once, secrets and configs by the check that it returns (see exchangeCheck). When the container
// has both, the status says so (applied_revision).
func (t *taskLoop) applyRevision(ctx context.Context) []check {
	t.applyLimits(ctx)
	if exchange := t.exchangeCheck(); exchange != nil {
		return exchange
	}
	t.reportApplied()
	return nil
}

// applyLimits gives the running container the limits of its task's revision if the container has
// those of another revision. Managers move a task to another revision only if the two revisions
// differ in what can change while it runs. After an adoption, t.revision is nil and the container's
// limits are not known, so applyLimits sets them.
func (t *taskLoop) applyLimits(ctx context.Context) {
	rev := t.r.deps.Objects.Revision(t.now())
	if rev == nil || t.revision.GetNumber() == rev.GetNumber() {
		return
	}
	err := t.changeRunning(ctx, "change limits", func() error {
		return t.r.deps.Runtime.Update(ctx, t.id, rev.GetSpec().GetTaskTemplate().GetResources())
	})
	switch {
	case err == nil:
		t.revision = rev
	case ctx.Err() == nil:
		t.limitsRefused(rev, err)
	}
}

// limitsRefused tells the managers that the container runs on without the limits of rev, so that
// they replace the task.
func (t *taskLoop) limitsRefused(rev *swarmv1.Revision, err error) {
	if t.revision == nil {
		t.revision = t.r.deps.Objects.Revision(t.now())
	}
	t.r.deps.Log.Warn("container keeps its former limits: the task will be replaced", "task", t.id, "err", err)
	t.reportRefused(rev.GetNumber(), fmt.Sprintf("limits could not be changed while it runs, so it is replaced: %v", err))
}

// reportRefused reports the number of the revision that the running container could not be given,
// and the reason.
func (t *taskLoop) reportRefused(revision uint64, text string) {
	t.editStatus(func(s *swarmv1.TaskStatus) bool {
		s.RefusedRevision, s.Err = revision, text
		return true
	})
}

// reportApplied reports that the container has all of t.revision, unless that was refused. It
// removes an earlier refusal from the status.
func (t *taskLoop) reportApplied() {
	number := t.revision.GetNumber()
	t.editStatus(func(s *swarmv1.TaskStatus) bool {
		if number == 0 || s.AppliedRevision == number || s.RefusedRevision == number {
			return false
		}
		if s.RefusedRevision != 0 {
			s.RefusedRevision, s.Err = 0, ""
		}
		s.AppliedRevision = number
		return true
	})
}
