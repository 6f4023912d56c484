package service

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/spec"
	"swarm/manager/control/object"
	"swarm/manager/converge"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// rolloutPause is the pause between two looks at rollouts that are not complete.
const rolloutPause = 250 * time.Millisecond

// RollOut is a duty of the leader (see manager.Manager.lead). It brings the current version of each
// secret and config to the services that follow the object: to one service after another, as a new
// revision of the service. The rollout stops at the first service that does not converge with the
// version. RollOut also ends the overlap of two versions (keep_previous) when its time has come. It
// returns when ctx ends, or with an error.
//
// The state of a rollout is in the row of the object, so a new leader continues it.
func (s *Server) RollOut(ctx context.Context) error {
	view, w := s.store.Watch(table.Secret, table.Config, table.Service)
	defer w.Close()
	r := &rollouts{server: s, waits: map[string]*rolloutWait{}, overlaps: map[string]time.Time{}}
	for svc := range view.Services.All() {
		r.noteOverlap(view, svc)
	}
	for {
		next, err := r.advance(ctx)
		if err != nil {
			return err
		}
		batch, err := w.NextBefore(ctx, next)
		if err != nil {
			return err
		}
		for _, c := range batch.Changes {
			if svc, ok := c.Row().(*swarmv1.Service); ok {
				r.noteOverlap(batch.View, svc)
			}
		}
	}
}

// rollouts is the memory of RollOut.
type rollouts struct {
	server *Server
	// waits has, by the id of the object, the wait for the service that gets the version now.
	waits map[string]*rolloutWait
	// overlaps says when the first overlap of two versions ends, by the id of the service.
	overlaps map[string]time.Time
}

// rolloutWait waits until a service has converged with a version.
type rolloutWait struct {
	service  string
	revision uint64
	judge    *converge.Judge
}

// noteOverlap records when the first overlap in the current revision of a service ends.
func (r *rollouts) noteOverlap(v *table.View, svc *swarmv1.Service) {
	delete(r.overlaps, svc.GetId())
	rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if ref.GetPrevious() == 0 || svc.GetPendingDelete() {
			continue
		}
		until := ref.GetPreviousUntil().AsTime()
		if at, ok := r.overlaps[svc.GetId()]; !ok || until.Before(at) {
			r.overlaps[svc.GetId()] = until
		}
	}
}

// advance does what can be done now, and returns when to call it again; zero: after the next
// change.
func (r *rollouts) advance(ctx context.Context) (next time.Time, err error) {
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(r.overlaps)) {
		if at := r.overlaps[id]; at.After(now) {
			next = watch.Earliest(next, at)
			continue
		}
		delete(r.overlaps, id)
		if err := r.server.endOverlap(ctx, id, now); err != nil {
			return next, err
		}
	}
	v := r.server.store.View()
	active := false
	for row := range v.Secrets.All() {
		if isRolling(row) {
			active = true
			if err := advanceOne(ctx, r, spec.SecretKind(), v, row); err != nil {
				return next, err
			}
		}
	}
	for row := range v.Configs.All() {
		if isRolling(row) {
			active = true
			if err := advanceOne(ctx, r, spec.ConfigKind(), v, row); err != nil {
				return next, err
			}
		}
	}
	if active {
		next = watch.Earliest(next, now.Add(rolloutPause))
	}
	return next, nil
}

func isRolling(row object.Data) bool {
	rollout := row.GetStatus().GetRollout()
	return rollout != nil && rollout.GetState() == swarmv1.DataRollout_ROLLING
}

// advanceOne takes the next step of the rollout of one object: it looks at the service that gets
// the version now, or gives the version to the next service.
func advanceOne[T object.DataRow[T]](ctx context.Context, r *rollouts, kind spec.DataKind, v *table.View, row T) error {
	rollout := row.GetStatus().GetRollout()
	if rollout.GetServiceId() != "" {
		verdict := r.look(v, row)
		switch {
		case verdict == nil:
			return nil
		case !verdict.GetConverged():
			return setRollout(ctx, r, row.CloneVT(), &swarmv1.DataRollout{
				State: swarmv1.DataRollout_STOPPED, ServiceId: rollout.GetServiceId(), Revision: rollout.GetRevision(),
				Message: stopMessage(object.ServiceName(v, rollout.GetServiceId()), row, verdict),
			})
		}
	}
	svc := nextFollower(v, row)
	if svc == nil {
		return setRollout(ctx, r, row.CloneVT(), &swarmv1.DataRollout{State: swarmv1.DataRollout_DONE, Message: fmt.Sprintf(
			"all services that follow %s %s have version %d", kind.Word, row.GetSpec().GetName(), row.GetStatus().GetNumber())})
	}
	next := row.CloneVT()
	next.GetStatus().Rollout = &swarmv1.DataRollout{
		ServiceId: svc.GetId(), Message: fmt.Sprintf("service %s gets version %d of %s %s", svc.GetName(), row.GetStatus().GetNumber(), kind.Word, row.GetSpec().GetName()),
	}
	return r.server.giveVersion(ctx, svc, row, next)
}

func stopMessage(service string, row object.Data, verdict *swarmv1.ServiceVerdict) string {
	text := fmt.Sprintf("stopped at service %s, which does not run with version %d: %s", service, row.GetStatus().GetNumber(), verdict.GetReason())
	return strings.TrimSuffix(text, ": ")
}

// look returns the verdict on the service that gets the version now, or nil if there is none yet. A
// service that does not exist any more, or does not follow the object any more, counts as
// converged.
func (r *rollouts) look(v *table.View, row object.Data) *swarmv1.ServiceVerdict {
	rollout := row.GetStatus().GetRollout()
	wait := r.waits[row.GetId()]
	if wait == nil || wait.service != rollout.GetServiceId() || wait.revision != rollout.GetRevision() {
		wait = &rolloutWait{service: rollout.GetServiceId(), revision: rollout.GetRevision(), judge: converge.New(converge.Change{})}
		r.waits[row.GetId()] = wait
	}
	done := &swarmv1.ServiceVerdict{Converged: true}
	state, ok := stateOf(v, wait.service)
	if !ok || state.Service.GetService().GetPendingDelete() || spec.IsJob(state.Service.GetRevision().GetSpec().GetMode()) {
		return done
	}
	verdict := wait.judge.Look(time.Now(), state).Verdict
	if verdict.GetConverged() && lags(state.Service.GetRevision(), row) {
		return &swarmv1.ServiceVerdict{Reason: "its update was rolled back"}
	}
	return verdict
}

// lags reports whether a revision follows an object and does not have its current version.
func lags(rev *swarmv1.Revision, row object.Data) bool {
	for ref := range spec.DataReferences(rev.GetSpec()) {
		if ref.GetId() == row.GetId() && !ref.GetPinned() && ref.GetNumber() != row.GetStatus().GetNumber() {
			return true
		}
	}
	return false
}

// nextFollower returns the service, the first by name, that follows the object and does not have
// its current version; nil if there is none.
func nextFollower(v *table.View, row object.Data) *swarmv1.Service {
	var first *swarmv1.Service
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		if !svc.GetPendingDelete() && lags(rev, row) && (first == nil || svc.GetName() < first.GetName()) {
			first = svc
		}
	}
	return first
}

// setRollout writes the state of a rollout, unless the object was changed meanwhile.
func setRollout[T object.DataRow[T]](ctx context.Context, r *rollouts, row T, rollout *swarmv1.DataRollout) error {
	delete(r.waits, row.GetId())
	row.GetStatus().Rollout = rollout
	_, err := r.server.store.Commit(ctx, "rollout", table.Update(row))
	return ignoreChanged(err)
}

// ignoreChanged returns nil if the store refused changes because a row was changed or removed
// meanwhile. The next look makes them from the newer view.
func ignoreChanged(err error) error {
	if errdefs.IsAborted(err) || errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// giveVersion writes, as one group, a revision of the service that names the current version of the
// object, and next, the row of the object that names the service. A job does not run again.
func (s *Server) giveVersion(ctx context.Context, svc *swarmv1.Service, row, next object.Data) error {
	v := s.store.View()
	until := time.Now()
	version, _ := v.DataVersions.Get(table.DataVersionKey(row.GetId(), row.GetStatus().GetNumber()))
	changes, revision, err := s.reviseData(v, svc.GetId(), spec.Author{Actor: version.GetActor(), Message: next.GetStatus().GetRollout().GetMessage()}, func(ref *swarmv1.DataReference) {
		if ref.GetId() != row.GetId() || ref.GetPinned() || ref.GetNumber() == row.GetStatus().GetNumber() {
			return
		}
		if ref.GetKeepPrevious() != nil {
			ref.Previous, ref.PreviousUntil = ref.GetNumber(), timestamppb.New(until.Add(ref.GetKeepPrevious().AsDuration()))
		}
		ref.Number = row.GetStatus().GetNumber()
	})
	if err != nil || len(changes) == 0 {
		return ignoreChanged(err)
	}
	next.GetStatus().GetRollout().Revision = revision
	_, err = s.store.Commit(ctx, "rollout", append(changes, table.Update(next))...)
	return ignoreChanged(err)
}

// endOverlap writes a revision of the service without the previous versions whose time has passed.
func (s *Server) endOverlap(ctx context.Context, id string, now time.Time) error {
	v := s.store.View()
	svc, _ := v.Services.Get(id)
	current, _ := v.Revision(id, svc.GetRevision())
	changes, _, err := s.reviseData(v, id, spec.Author{Actor: current.GetActor(), Message: "the time for the previous version of a secret or config is over"}, func(ref *swarmv1.DataReference) {
		if ref.GetPrevious() != 0 && !ref.GetPreviousUntil().AsTime().After(now) {
			ref.Previous, ref.PreviousUntil = 0, nil
		}
	})
	if err != nil || len(changes) == 0 {
		return ignoreChanged(err)
	}
	_, err = s.store.Commit(ctx, "rollout", changes...)
	return ignoreChanged(err)
}

// reviseData returns the changes that write a revision of a service in which edit has changed the
// references to secrets and configs, and the number of the revision. It returns no changes if the
// service is gone, or edit changes nothing.
func (s *Server) reviseData(v *table.View, id string, by spec.Author, edit func(*swarmv1.DataReference)) ([]*swarmv1.Change, uint64, error) {
	svc, ok := v.Services.Get(id)
	rev, hasRevision := v.Revision(id, svc.GetRevision())
	if !ok || !hasRevision || svc.GetPendingDelete() {
		return nil, 0, nil
	}
	wanted := rev.GetSpec().CloneVT()
	for ref := range spec.DataReferences(wanted) {
		edit(ref)
	}
	next := svc.CloneVT()
	changes, err := s.revise(v, next, wanted, by)
	if err != nil || len(changes) == 0 {
		return nil, 0, err
	}
	next.JobStatus = svc.GetJobStatus()
	return append(changes, table.Update(next)), next.GetRevision(), nil
}
