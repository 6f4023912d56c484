package job

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Writer *crud.Writer
}

// Server serves the RPCs of runs.
type Server struct {
	log    *slog.Logger
	store  *raftstore.Store
	writer *crud.Writer
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{log: deps.Log, store: deps.Store, writer: deps.Writer}
}

// RunService starts a run of a job now. It returns ErrFailedPrecondition if a run goes on and the
// job forbids that they overlap.
func (s *Server) RunService(ctx context.Context, req *swarmv1.RunServiceRequest) (*swarmv1.Run, error) {
	svc, err := object.Services().Find(s.store.View(), req.GetId())
	if err != nil {
		return nil, err
	}
	name, now := svc.GetName(), time.Now()
	var begun *swarmv1.Run
	_, err = object.Services().Update(ctx, s.writer, svc, 0, func(v *table.View, row *swarmv1.Service) ([]*swarmv1.Change, error) {
		rev, _ := v.Revision(row.GetId(), row.GetRevision())
		if !spec.IsJob(rev.GetSpec().GetMode()) {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("service %s is no job: only jobs have runs; see `swarm service update --force %s`", name, name))
		}
		active := activeRun(v, row)
		if active != nil && rev.GetSpec().GetJob().GetOverlap() == swarmv1.JobPolicy_FORBID {
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"a run of job %s goes on, since %s: wait for its end (`swarm service runs %s`), or update the job with --overlap allow or replace",
				name, active.GetStartedAt().AsTime().Format(time.RFC3339), name))
		}
		changes := begin(v, row, now)
		begun = &swarmv1.Run{
			ServiceId: row.GetId(), Id: "u" + strconv.FormatUint(row.GetJobStatus().GetJobIteration(), 10), Iteration: row.GetJobStatus().GetJobIteration(),
			StartedAt: timestamppb.New(now), Actor: crud.Actor(ctx),
		}
		return append(changes, table.Create(begun)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("run service %s: %w", name, err)
	}
	return begun, nil
}

// ListRuns lists the runs of a job, the newest first.
func (s *Server) ListRuns(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ListRunsResponse, error) {
	v := s.store.View()
	svc, err := object.Services().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListRunsResponse{Runs: slices.SortedFunc(v.RunsOf(svc.GetId()), newestFirst)}
	rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
	if times, err := spec.ScheduleOf(rev.GetSpec()); err == nil {
		out.Next = timestamppb.New(times.Next(lastDecided(svc)))
	}
	return out, nil
}

func newestFirst(a, b *swarmv1.Run) int {
	return cmp.Or(beganAt(b).Compare(beganAt(a)), cmp.Compare(b.GetIteration(), a.GetIteration()))
}

// beganAt returns when a run began, or should have begun.
func beganAt(r *swarmv1.Run) time.Time {
	if r.GetStartedAt() != nil {
		return r.GetStartedAt().AsTime()
	}
	return r.GetScheduledAt().AsTime()
}

// lastDecided returns the last scheduled time about which was decided: whether a run begins. Before
// the first one, it is the time at which the service was created.
func lastDecided(svc *swarmv1.Service) time.Time {
	if at := svc.GetJobStatus().GetLastScheduled(); at != nil {
		return at.AsTime()
	}
	return svc.GetMeta().GetCreatedAt().AsTime()
}

// activeRun returns the run of the current iteration if it goes on; if not, nil.
func activeRun(v *table.View, svc *swarmv1.Service) *swarmv1.Run {
	if svc.GetJobStatus().GetEnded() {
		return nil
	}
	for r := range v.RunsOf(svc.GetId()) {
		if r.GetState() == swarmv1.Run_RUNNING && r.GetIteration() == svc.GetJobStatus().GetJobIteration() {
			return r
		}
	}
	return nil
}

// begin makes the next iteration of a job the current one. It edits the row of the service, and
// returns the change of the run that went on, if any. With overlap ALLOW, that run goes on.
func begin(v *table.View, row *swarmv1.Service, now time.Time) []*swarmv1.Change {
	rev, _ := v.Revision(row.GetId(), row.GetRevision())
	var changes []*swarmv1.Change
	if active := activeRun(v, row); active != nil && rev.GetSpec().GetJob().GetOverlap() != swarmv1.JobPolicy_ALLOW {
		active = active.CloneVT()
		active.State, active.EndedAt, active.Message = swarmv1.Run_REPLACED, timestamppb.New(now), "a later run began"
		changes = append(changes, table.Update(active))
	}
	status := statusOf(row)
	status.JobIteration++
	status.LastExecution, status.Ended = timestamppb.New(now), false
	return changes
}

// statusOf returns the job status of a row to edit it, and makes one if there is none. The row must
// be a copy of the stored one.
func statusOf(row *swarmv1.Service) *swarmv1.JobStatus {
	if row.JobStatus == nil {
		row.JobStatus = &swarmv1.JobStatus{}
	}
	return row.JobStatus
}
