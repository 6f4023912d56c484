package tasks

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/retry"
)

// applyLimits gives the running container the limits of its task's revision if the container has
// those of another revision. Managers move a task to another revision only if the two revisions
// differ in limits alone. After an adoption, t.revision is nil and the container's limits are not
// known, so applyLimits sets them.
func (t *taskLoop) applyLimits(ctx context.Context) {
	rev := t.r.deps.Objects.Revision(t.now())
	if rev == nil || t.revision.GetNumber() == rev.GetNumber() {
		return
	}
	for try := 0; ; try++ {
		err := t.r.deps.Runtime.Update(ctx, t.id, rev.GetSpec().GetTaskTemplate().GetResources())
		switch {
		case err == nil, errdefs.IsNotFound(err): // NotFound: the container has ended, and wait reports that.
			t.limitsApplied(rev)
			return
		case ctx.Err() != nil:
			return
		case !errdefs.IsUnavailable(err):
			t.limitsRefused(rev, err)
			return
		}
		t.r.deps.Log.Warn("change limits", "task", t.id, "err", err)
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit)) != nil {
			return
		}
	}
}

// limitsApplied records that the container has the limits of rev. It removes an earlier refusal
// from the status.
func (t *taskLoop) limitsApplied(rev *swarmv1.Revision) {
	t.revision = rev
	t.mu.Lock()
	refused := t.status.GetRefusedRevision() != 0
	t.mu.Unlock()
	if refused {
		t.setRefused(0, "")
	}
}

// limitsRefused tells the managers that the container runs on without the limits of rev, so that
// they replace the task.
func (t *taskLoop) limitsRefused(rev *swarmv1.Revision, err error) {
	if t.revision == nil {
		t.revision = t.r.deps.Objects.Revision(t.now())
	}
	t.r.deps.Log.Warn("container keeps its former limits: the task will be replaced", "task", t.id, "err", err)
	t.setRefused(rev.GetNumber(), fmt.Sprintf("limits could not be changed while it runs, so it is replaced: %v", err))
}

// setRefused reports the number of the revision whose limits were refused, and the reason. 0 and an
// empty text mean that none was refused.
func (t *taskLoop) setRefused(revision uint64, text string) {
	t.mu.Lock()
	s := t.status.CloneVT()
	s.RefusedRevision, s.Err = revision, text
	t.status = s
	t.mu.Unlock()
	t.r.deps.Managers.Report(s, true)
}
