package tasks

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	"swarm/internal/task"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// execTimeout limits the command that a service runs after the exchange of a secret or config.
const execTimeout = time.Minute

// exchangeCheck returns a check that gives the running container the secrets and configs of its
// task's revision, and then tells the container's processes. It returns none if the container has
// them. The check ends with a Look, and the loop watches the container again, which reports that
// the container has them (see applyRevision).
//
// The exchange is a check, and not a step before the watch, because it may have to wait for the
// managers: after a restart of the daemon, secrets come only with the first message of a session.
func (t *taskLoop) exchangeCheck() []check {
	rev := t.r.deps.Objects.Revision(t.now())
	if !exchanges(rev) {
		return nil
	}
	if t.dataRevision == 0 {
		t.dataRevision = t.r.readDataRevision(t.id)
	}
	if t.dataRevision == rev.GetNumber() {
		return nil
	}
	return []check{func(ctx context.Context) outcome {
		t.exchange(ctx, rev)
		return outcome{event: task.Look, err: ctx.Err()}
	}}
}

// exchanges reports whether the files of a secret or config may change while the container runs.
func exchanges(rev *swarmv1.Revision) bool {
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if spec.Exchanged(ref) || ref.GetKeepPrevious() != nil {
			return true
		}
	}
	return false
}

// exchange gives the container the files of a revision, and tells its processes. If that fails, it
// tells the managers, which replace the task. The revision is recorded last: a daemon that is
// killed in between exchanges again, and tells the processes again.
func (t *taskLoop) exchange(ctx context.Context, rev *swarmv1.Revision) {
	err := t.changeRunning(ctx, "exchange secrets and configs", func() error { return t.exchangeOnce(ctx, rev) })
	switch {
	case err == nil:
		t.r.writeDataRevision(t.id, rev.GetNumber())
		t.dataRevision, t.dataOf = rev.GetNumber(), rev
	case ctx.Err() == nil:
		t.r.deps.Log.Warn("container keeps its former secrets and configs: the task will be replaced", "task", t.id, "err", err)
		t.reportRefused(rev.GetNumber(), fmt.Sprintf("secrets and configs could not be changed while it runs, so it is replaced: %v", err))
		t.dataRevision = rev.GetNumber()
	}
}

func (t *taskLoop) exchangeOnce(ctx context.Context, rev *swarmv1.Revision) error {
	files, err := t.awaitFiles(ctx, rev)
	if err != nil {
		return err
	}
	if err := t.r.deps.Runtime.Exchange(ctx, t.id, files); err != nil {
		return err
	}
	for _, on := range newActions(t.dataOf, rev) {
		if err := t.tell(ctx, on); err != nil {
			return err
		}
	}
	return nil
}

// awaitFiles waits until all versions that the revision names are assigned, and returns the files.
func (t *taskLoop) awaitFiles(ctx context.Context, raw *swarmv1.Revision) ([]engine.File, error) {
	now := t.now()
	rev, err := template.Expand(raw, now, t.r.templateNode())
	if err != nil {
		return nil, err
	}
	for {
		changed := t.r.deps.Objects.Changed()
		files, err := t.r.filesOf(now, rev)
		if !errdefs.IsNotFound(err) {
			return files, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// newActions returns what the container does about the versions that rev has and was has not, each
// action once. was is nil if it is not known which versions the container had.
func newActions(was, rev *swarmv1.Revision) []*swarmv1.OnUpdate {
	var out []*swarmv1.OnUpdate
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if !spec.Exchanged(ref) || was != nil && hasVersion(was, ref) {
			continue
		}
		if !slices.ContainsFunc(out, ref.GetOnUpdate().EqualVT) {
			out = append(out, ref.GetOnUpdate())
		}
	}
	return out
}

func hasVersion(rev *swarmv1.Revision, want *swarmv1.DataReference) bool {
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if ref.GetId() == want.GetId() && ref.GetNumber() == want.GetNumber() && ref.GetFile().EqualVT(want.GetFile()) {
			return true
		}
	}
	return false
}

// tell performs one action. Its errors have no output of the command, which may be a secret.
func (t *taskLoop) tell(ctx context.Context, on *swarmv1.OnUpdate) error {
	switch on.GetAction() {
	case swarmv1.OnUpdate_SIGNAL:
		return t.r.deps.Runtime.Signal(ctx, t.id, on.GetSignal())
	case swarmv1.OnUpdate_EXEC:
		bounded, cancel := context.WithTimeout(ctx, execTimeout)
		defer cancel()
		code, err := t.r.deps.Executor.Exec(bounded, &swarmv1.ExecStart{TaskId: t.id, Command: on.GetCommand()}, engine.ExecStreams{Whole: true})
		switch {
		case ctx.Err() == nil && bounded.Err() != nil:
			return fmt.Errorf("command %s did not end within %s: %w", on.GetCommand()[0], execTimeout, errdefs.ErrFailedPrecondition)
		case err != nil:
			return err
		case code != 0:
			return fmt.Errorf("command %s ended with exit code %d: %w", on.GetCommand()[0], code, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// dataRevisionFile is the file that has the number of the revision whose secrets and configs the
// container of a task has.
func (r *Runner) dataRevisionFile(id string) string { return path.Join(r.cfg.Dir, id, "data-revision") }

// readDataRevision returns the number that an earlier daemon has recorded; 0: none is known.
func (r *Runner) readDataRevision(id string) uint64 {
	text, err := os.ReadFile(r.dataRevisionFile(id))
	if err != nil {
		return 0
	}
	number, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// writeDataRevision records a number. If that fails, the next daemon exchanges the files again,
// which is harmless.
func (r *Runner) writeDataRevision(id string, number uint64) {
	if err := os.WriteFile(r.dataRevisionFile(id), strconv.AppendUint(nil, number, 10), 0o600); err != nil {
		r.deps.Log.Warn("record the revision of a container's secrets and configs", "task", id, "err", err)
	}
}
