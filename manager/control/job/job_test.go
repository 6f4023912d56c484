package job_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// rig is the API with a job. Its tests write the tasks that the planner would write.
type rig struct {
	*controltest.Rig
	node, id    string
	stopLeading func()
}

// newRig makes a job of one task with a policy. Bubbles begin at midnight.
func newRig(t *testing.T, policy *swarmv1.JobPolicy) *rig {
	r := &rig{Rig: controltest.New(t)}
	r.stopLeading = r.Lead()
	r.node = r.AddNode("h1")
	s := controltest.ServiceSpec("backup", 1)
	s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{TotalCompletions: 1}}}
	s.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_ON_FAILURE}
	s.Job = policy
	r.id = r.CreateService(s)
	return r
}

// iteration returns the number of the current iteration, and whether it has ended.
func (r *rig) iteration() (uint64, bool) {
	s := r.Service("backup").GetService().GetJobStatus()
	return s.GetJobIteration(), s.GetEnded()
}

// finish writes a task of the current iteration that has ended in a state.
func (r *rig) finish(state swarmv1.TaskState) {
	r.T.Helper()
	n, _ := r.iteration()
	var before uint64 // tasks of the iteration
	for t := range r.Store.View().TasksOfService(r.id) {
		if t.GetJobIteration() == n {
			before++
		}
	}
	id := r.AddTask(r.id, r.node, 1)
	t, _ := r.Store.View().Tasks.Get(id)
	t = t.CloneVT()
	t.JobIteration, t.Ordinal, t.Restarts = n, uint64(r.Store.View().Tasks.Len()), &swarmv1.RestartHistory{Attempts: before}
	st := r.Store.View().Status(id).CloneVT()
	st.State = state
	r.Commit(table.Update(t), table.Update(st))
	synctest.Wait()
}

// runs describes the runs, the newest first.
func (r *rig) runs() string {
	r.T.Helper()
	list, err := r.Control.ListRuns(r.T.Context(), &swarmv1.GetRequest{Id: "backup"})
	if err != nil {
		r.T.Fatal(err)
	}
	var out []string
	for _, run := range list.GetRuns() {
		at := "now"
		if run.GetScheduledAt() != nil {
			at = run.GetScheduledAt().AsTime().Format("15:04")
		}
		out = append(out, fmt.Sprintf("%s %d %s", at, run.GetIteration(), strings.ToLower(run.GetState().String())))
	}
	return strings.Join(out, ", ")
}

func (r *rig) want(when, runs string) {
	r.T.Helper()
	synctest.Wait()
	if got := r.runs(); got != runs {
		r.T.Errorf("%s: got %s, want %s", when, got, runs)
	}
}

// period is the time between two runs. It is short because the store's timers cost time in a
// bubble.
const period = 10 * time.Minute

func scheduled(edit ...func(*swarmv1.JobPolicy)) *swarmv1.JobPolicy {
	p := &swarmv1.JobPolicy{Schedule: "*/10 * * * *"}
	for _, e := range edit {
		e(p)
	}
	return p
}

func TestRunJobs_BeginsARunAtEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, scheduled())
		r.want("created", "")
		time.Sleep(period)
		r.want("00:10", "00:10 1 running")
		r.finish(swarmv1.TaskState_COMPLETE)
		r.want("done", "00:10 1 complete")
		time.Sleep(period)
		r.want("00:20", "00:20 2 running, 00:10 1 complete")
		time.Sleep(period) // The run is still going on.
		r.want("00:30", "00:30 0 skipped, 00:20 2 running, 00:10 1 complete")
		if _, err := r.Control.RunService(t.Context(), &swarmv1.RunServiceRequest{Id: "backup"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "a run of job backup goes on, since 2000-01-01T00:20:00Z") {
			t.Errorf("a run by hand beside another: %v", err)
		}
		r.finish(swarmv1.TaskState_COMPLETE)
		if _, err := r.Control.RunService(t.Context(), &swarmv1.RunServiceRequest{Id: "backup"}); err != nil {
			t.Error(err)
		}
		r.finish(swarmv1.TaskState_COMPLETE)
		r.want("by hand", "now 3 complete, 00:30 0 skipped, 00:20 2 complete, 00:10 1 complete")
	})
}

func TestRunJobs_Overlap(t *testing.T) {
	for overlap, want := range map[swarmv1.JobPolicy_Overlap]string{
		swarmv1.JobPolicy_FORBID:  "00:20 0 skipped, 00:10 1 running",
		swarmv1.JobPolicy_ALLOW:   "00:20 2 running, 00:10 1 running",
		swarmv1.JobPolicy_REPLACE: "00:20 2 running, 00:10 1 replaced",
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, scheduled(func(p *swarmv1.JobPolicy) { p.Overlap = overlap }))
			time.Sleep(period)
			synctest.Wait()
			task := r.AddTask(r.id, r.node, 1)
			row, _ := r.Store.View().Tasks.Get(task)
			row = row.CloneVT()
			row.JobIteration = 1
			r.Commit(table.Update(row))
			time.Sleep(period)
			r.want(overlap.String(), want)
		})
	}
}

// After an outage of 5 periods: the duty begins again when the job has missed 5 times.
func TestRunJobs_CatchUp(t *testing.T) {
	for catchUp, want := range map[swarmv1.JobPolicy_CatchUp][]string{
		swarmv1.JobPolicy_LAST: {"00:50 1 running"},
		swarmv1.JobPolicy_NONE: {"00:50 0 skipped"},
		swarmv1.JobPolicy_ALL:  {"00:10 1 running", "00:20 2 running, 00:10 1 complete", "00:30 3 running, 00:20 2 complete, 00:10 1 complete"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, scheduled(func(p *swarmv1.JobPolicy) { p.CatchUp = catchUp }))
			time.Sleep(period / 2)
			r.stopLeading()
			time.Sleep(5 * period)
			r.Lead()
			for i, state := range want {
				if i > 0 {
					r.finish(swarmv1.TaskState_COMPLETE)
				}
				r.want(fmt.Sprint(catchUp, " ", i), state)
			}
		})
	}
}

// A time has one run, also if the clock of the next leader is behind.
func TestRunJobs_ATimeHasOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, scheduled(func(p *swarmv1.JobPolicy) { p.HistoryLimit = 1 }))
		r.Lead() // another manager that believes to lead
		time.Sleep(period)
		r.want("two leaders", "00:10 1 running")
		r.finish(swarmv1.TaskState_COMPLETE)
		time.Sleep(period)
		r.want("the history has one run", "00:20 2 running")
		// The clock is set back: the last scheduled time is in the future.
		svc := r.Service("backup").GetService().CloneVT()
		svc.JobStatus.LastScheduled.Seconds += 3 * int64(period/time.Second)
		r.Commit(table.Update(svc))
		r.finish(swarmv1.TaskState_COMPLETE)
		time.Sleep(3 * period)
		r.want("until the clock is there", "00:20 2 complete")
		time.Sleep(period)
		r.want("after that", "01:00 3 running")
	})
}

func TestRunJobs_Failures(t *testing.T) {
	for name, c := range map[string]struct {
		policy *swarmv1.JobPolicy
		act    func(*rig)
		says   string
	}{
		"backoff": {scheduled(func(p *swarmv1.JobPolicy) { p.BackoffLimit = proto.Uint64(1) }), func(r *rig) {
			r.finish(swarmv1.TaskState_FAILED)
			r.want("one failure", "00:10 1 running")
			r.finish(swarmv1.TaskState_FAILED)
		}, "the backoff limit is 1"},
		"deadline": {scheduled(func(p *swarmv1.JobPolicy) { p.Deadline = durationpb.New(period / 2) }), func(*rig) {
			time.Sleep(period / 2)
		}, "longer than the deadline of 5m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.policy)
				time.Sleep(period)
				synctest.Wait()
				c.act(r)
				r.want("failed", "00:10 1 failed")
				if _, ended := r.iteration(); !ended {
					t.Error("the iteration has not ended: its tasks would go on")
				}
				list, _ := r.Control.ListRuns(t.Context(), &swarmv1.GetRequest{Id: "backup"})
				if got := list.GetRuns()[0].GetMessage(); !strings.Contains(got, c.says) {
					t.Errorf("message %q, want %q", got, c.says)
				}
			})
		})
	}
}

// A job without a schedule runs when it is created. It ends by its limits too, and without limits
// only as the restart policy says.
func TestRunJobs_JobWithoutASchedule(t *testing.T) {
	for name, c := range map[string]struct {
		policy *swarmv1.JobPolicy
		ends   bool
	}{
		"no policy": {nil, false},
		"a limit":   {&swarmv1.JobPolicy{BackoffLimit: proto.Uint64(0)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.policy)
				r.finish(swarmv1.TaskState_FAILED)
				if _, ended := r.iteration(); ended != c.ends {
					t.Errorf("ended: got %t, want %t", ended, c.ends)
				}
				r.want("no schedule", "")
				if _, err := r.Control.RunService(t.Context(), &swarmv1.RunServiceRequest{Id: "backup"}); err != nil {
					t.Error(err)
				}
				r.want("by hand", "now 1 running")
			})
		})
	}
}

// The runs of a job that is removed go with it.
func TestRunJobs_RemovedJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, scheduled())
		time.Sleep(period)
		r.RemoveService("backup")
		r.FinishRemoval(r.id)
		synctest.Wait()
		if n := r.Store.View().Runs.Len(); n != 0 {
			t.Errorf("%d runs are left", n)
		}
	})
}
