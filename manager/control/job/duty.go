package job

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

const (
	// punctual is how late a run may begin without having been missed: a new leader needs a moment.
	punctual = time.Minute
	// maxCatchUp is how many missed runs a job may have with the policy ALL.
	maxCatchUp = 100
	// retryPause is the pause before a job is looked at again after a write that failed.
	retryPause = time.Second
)

// RunJobs is a duty of the leader (see manager.Manager.lead). It begins the scheduled runs of jobs,
// ends the runs that have completed or failed, and deletes old runs. It returns when ctx ends, or
// with an error.
func (s *Server) RunJobs(ctx context.Context) error {
	view, w := s.store.Watch(table.Service, table.TaskStatus)
	defer w.Close()
	d := &duty{server: s, due: map[string]time.Time{}}
	for svc := range view.Services.All() {
		d.consider(view, svc)
	}
	for {
		now := time.Now()
		var next time.Time
		for _, id := range slices.Sorted(maps.Keys(d.due)) {
			if d.due[id].After(now) {
				next = watch.Earliest(next, d.due[id])
				continue
			}
			at, err := s.step(ctx, id, now)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				s.log.Warn("run of a job", "service", id, "err", err)
				at = now.Add(retryPause)
			case at.IsZero():
				delete(d.due, id)
				continue
			}
			d.due[id] = at
			next = watch.Earliest(next, at)
		}
		batch, err := w.NextBefore(ctx, next)
		if err != nil {
			return err
		}
		for _, c := range batch.Changes {
			switch row := c.Row().(type) {
			case *swarmv1.Service:
				if c.New == nil {
					if err := s.deleteRuns(ctx, batch.View, row.GetId()); err != nil {
						return err
					}
				}
				d.consider(batch.View, row)
			case *swarmv1.TaskStatus:
				t, _ := batch.View.Tasks.Get(row.GetTaskId())
				if svc, ok := batch.View.Services.Get(t.GetServiceId()); ok {
					d.consider(batch.View, svc)
				}
			}
		}
	}
}

// deleteRuns deletes the runs of a service that was removed. If that fails, collectGarbage of the
// manager deletes them in the next term.
func (s *Server) deleteRuns(ctx context.Context, v *table.View, service string) error {
	var changes []*swarmv1.Change
	for r := range v.RunsOf(service) {
		changes = append(changes, table.Delete(r))
	}
	if len(changes) == 0 {
		return nil
	}
	if _, err := s.store.Commit(ctx, "jobs", changes...); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// duty is the memory of RunJobs.
type duty struct {
	server *Server
	due    map[string]time.Time // when to look at a job again, by the id of its service
}

// consider makes a service due now if it is a job.
func (d *duty) consider(v *table.View, svc *swarmv1.Service) {
	rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
	if spec.IsJob(rev.GetSpec().GetMode()) {
		d.due[svc.GetId()] = time.Time{}
	}
}

// step does for one job what is due, in one group. It returns when the job must be looked at again
// although no row changes; zero: never.
func (s *Server) step(ctx context.Context, id string, now time.Time) (next time.Time, err error) {
	v := s.store.View()
	svc, ok := v.Services.Get(id)
	rev, hasRevision := v.Revision(id, svc.GetRevision())
	if !ok || !hasRevision || svc.GetPendingDelete() {
		return time.Time{}, nil
	}
	p := &pass{view: v, row: svc.CloneVT(), spec: rev.GetSpec(), now: now}
	p.endRuns()
	if err := p.beginScheduled(); err != nil {
		return time.Time{}, err
	}
	p.deleteOld()
	if len(p.changes) == 0 && p.row.EqualVT(svc) {
		return p.next, nil
	}
	// The row of the service is written even if it stays as it is, so that the store refuses these
	// changes if another writer begins a run at the same moment.
	_, err = s.store.Commit(ctx, "jobs", append(p.changes, table.Update(p.row))...)
	if errdefs.IsAborted(err) || errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) {
		return now, nil // Another writer was faster: look again.
	}
	return p.next, err
}

// pass is one look at one job.
type pass struct {
	view    *table.View
	row     *swarmv1.Service // edited
	spec    *swarmv1.ServiceSpec
	now     time.Time
	changes []*swarmv1.Change
	next    time.Time       // when to look again; zero: when a row changes
	ended   map[string]bool // ids of the runs that this pass has ended
}

func (p *pass) wakeAt(t time.Time) { p.next = watch.Earliest(p.next, t) }

// endRuns ends the runs that have completed or failed.
func (p *pass) endRuns() {
	p.ended = map[string]bool{}
	status := p.row.GetJobStatus()
	current := false // the current iteration has a run
	for r := range p.view.RunsOf(p.row.GetId()) {
		if r.GetState() != swarmv1.Run_RUNNING {
			continue
		}
		isCurrent := r.GetIteration() == status.GetJobIteration()
		current = current || isCurrent
		t := tallyOf(p.view, p.row, p.spec, r.GetIteration(), isCurrent)
		state, message := p.verdict(t, r.GetStartedAt().AsTime())
		edited := r.CloneVT()
		edited.Completed, edited.Failed = t.completed, max(t.failed, r.GetFailed())
		if state != swarmv1.Run_RUNNING {
			edited.State, edited.Message, edited.EndedAt = state, message, timestamppb.New(p.now)
			p.ended[r.GetId()] = true
			if isCurrent {
				statusOf(p.row).Ended = true
			}
		}
		if !edited.EqualVT(r) {
			p.changes = append(p.changes, table.Update(edited))
		}
	}
	runsAtCreation := p.spec.GetJob() != nil && !spec.IsScheduled(p.spec)
	if runsAtCreation && !current && !status.GetEnded() {
		t := tallyOf(p.view, p.row, p.spec, status.GetJobIteration(), true)
		if state, _ := p.verdict(t, status.GetLastExecution().AsTime()); state == swarmv1.Run_FAILED {
			statusOf(p.row).Ended = true
		}
	}
}

// verdict says what has become of a run, and why.
func (p *pass) verdict(t tally, began time.Time) (swarmv1.Run_State, string) {
	policy := p.spec.GetJob()
	if policy != nil && policy.BackoffLimit != nil && t.failed > policy.GetBackoffLimit() {
		return swarmv1.Run_FAILED, fmt.Sprintf("%d tasks failed, and the backoff limit is %d", t.failed, policy.GetBackoffLimit())
	}
	switch {
	case t.complete:
		return swarmv1.Run_COMPLETE, ""
	case t.stuck:
		return swarmv1.Run_FAILED, "a task failed, and the restart policy starts no other"
	}
	if policy.GetDeadline() != nil {
		at := began.Add(policy.GetDeadline().AsDuration())
		if !at.After(p.now) {
			return swarmv1.Run_FAILED, fmt.Sprintf("it took longer than the deadline of %s", policy.GetDeadline().AsDuration())
		}
		p.wakeAt(at)
	}
	return swarmv1.Run_RUNNING, ""
}

// beginScheduled begins the run that is due, or decides that it does not begin. It decides about
// one scheduled time; if more are due, it asks to be called again.
func (p *pass) beginScheduled() error {
	if !spec.IsScheduled(p.spec) {
		return nil
	}
	times, err := spec.ScheduleOf(p.spec)
	if err != nil {
		return err
	}
	policy := p.spec.GetJob()
	limit := 1
	if policy.GetCatchUp() == swarmv1.JobPolicy_ALL {
		limit = maxCatchUp
	}
	due := times.Due(lastDecided(p.row), p.now, limit)
	if len(due) == 0 {
		if at := times.Next(laterOf(lastDecided(p.row), p.now)); !at.IsZero() {
			p.wakeAt(at)
		}
		return nil
	}
	at := due[0]
	missed := p.now.Sub(at) > punctual
	active := activeRun(p.view, p.row)
	if active != nil && p.ended[active.GetId()] {
		active = nil
	}
	switch {
	case missed && policy.GetCatchUp() == swarmv1.JobPolicy_NONE:
		p.skip(at, "its time passed while no manager led")
	case active != nil && policy.GetOverlap() == swarmv1.JobPolicy_FORBID && missed && policy.GetCatchUp() == swarmv1.JobPolicy_ALL:
		return nil // It waits for the end of the run before.
	case active != nil && policy.GetOverlap() == swarmv1.JobPolicy_FORBID:
		p.skip(at, fmt.Sprintf("the run of %s was still going on", beganAt(active).UTC().Format(time.RFC3339)))
	default:
		p.changes = append(p.changes, begin(p.view, p.row, p.now)...)
		p.decide(at, &swarmv1.Run{Iteration: p.row.GetJobStatus().GetJobIteration(), StartedAt: timestamppb.New(p.now)})
	}
	p.wakeAt(p.now) // More may be due.
	return nil
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// skip records that no run begins at a scheduled time.
func (p *pass) skip(at time.Time, why string) {
	p.decide(at, &swarmv1.Run{State: swarmv1.Run_SKIPPED, EndedAt: timestamppb.New(p.now), Message: why})
}

// decide records the run of a scheduled time. The key of the run has the time.
func (p *pass) decide(at time.Time, r *swarmv1.Run) {
	r.ServiceId, r.Id, r.ScheduledAt = p.row.GetId(), strconv.FormatInt(at.Unix(), 10), timestamppb.New(at)
	p.changes = append(p.changes, table.Create(r))
	statusOf(p.row).LastScheduled = timestamppb.New(at)
}

// deleteOld deletes the runs that have ended, except the newest. The last scheduled time is in the
// row of the service, so no time becomes due again.
func (p *pass) deleteOld() {
	kept := int(p.spec.GetJob().GetHistoryLimit())
	if kept == 0 {
		kept = spec.DefaultRunHistory
	}
	all := slices.SortedFunc(p.view.RunsOf(p.row.GetId()), newestFirst)
	for _, r := range all[min(kept, len(all)):] {
		if r.GetState() != swarmv1.Run_RUNNING {
			p.changes = append(p.changes, table.Delete(r))
		}
	}
}
