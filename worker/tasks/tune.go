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

// tune gives the running container the limits of its task's revision. A task moves to another revision only when nothing
// but limits differs; a daemon that adopted it does not know which it has, and so asks for those that it should have.
func (t *taskLoop) tune(ctx context.Context) {
	rev := t.r.deps.Objects.Revision(t.now())
	if rev == nil || t.revision.GetNumber() == rev.GetNumber() {
		return
	}
	for try := 0; ; try++ {
		err := t.r.deps.Runtime.Update(ctx, t.id, rev.GetSpec().GetTaskTemplate().GetResources())
		switch {
		case err == nil, errdefs.IsNotFound(err): // it has ended: the wait tells
			t.tuned(rev)
			return
		case ctx.Err() != nil:
			return
		case !errdefs.IsUnavailable(err):
			t.untuned(rev, err)
			return
		}
		t.r.deps.Log.Warn("change limits", "task", t.id, "err", err)
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit)) != nil {
			return
		}
	}
}

// tuned notes which limits the container has, and takes back what untuned said.
func (t *taskLoop) tuned(rev *swarmv1.Revision) {
	t.revision = rev
	t.mu.Lock()
	refused := t.status.GetRefusedRevision() != 0
	t.mu.Unlock()
	if refused {
		t.refuse(0, "")
	}
}

// untuned tells the managers that the container goes on without the limits, so that they replace the task.
func (t *taskLoop) untuned(rev *swarmv1.Revision, err error) {
	if t.revision == nil {
		t.revision = t.r.deps.Objects.Revision(t.now())
	}
	t.r.deps.Log.Warn("limits stay as they were: the task will be replaced", "task", t.id, "err", err)
	t.refuse(rev.GetNumber(), fmt.Sprintf("limits could not be changed while it runs, so it is replaced: %v", err))
}

func (t *taskLoop) refuse(revision uint64, text string) {
	t.mu.Lock()
	s := t.status.CloneVT()
	s.RefusedRevision, s.Err = revision, text
	t.status = s
	t.mu.Unlock()
	t.r.deps.Managers.Report(s, true)
}
