package converge

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	pending   = swarmv1.TaskState_PENDING
	assigned  = swarmv1.TaskState_ASSIGNED
	preparing = swarmv1.TaskState_PREPARING
	ready     = swarmv1.TaskState_READY
	running   = swarmv1.TaskState_RUNNING
	complete  = swarmv1.TaskState_COMPLETE
	shutdown  = swarmv1.TaskState_SHUTDOWN
	failed    = swarmv1.TaskState_FAILED
	rejected  = swarmv1.TaskState_REJECTED
)

// The views of all looks have viewIndex. Statuses are newer, and those of tasks that exist before
// the change are older.
const (
	viewIndex    = 50
	firstVersion = 100
)

// see looks at a scene at the given time after the start. All revisions have the current spec, and
// each has another template.
func (j *Judge) see(at time.Duration, sc scene) Report {
	revisions := map[uint64]*swarmv1.Revision{}
	for n := uint64(1); n <= max(sc.service.Revision.Number, 2); n++ {
		revisions[n] = sc.service.Revision.CloneVT()
		revisions[n].Number, revisions[n].Template = n, n
	}
	return j.Look(start.Add(at), State{ViewIndex: viewIndex, Service: sc.service, Tasks: sc.tasks, Revisions: revisions})
}

// outcome is a report in a word, or the reason of its verdict.
func outcome(r Report) string {
	switch {
	case r.Verdict.GetConverged():
		return "converged"
	case r.Verdict != nil:
		return "failure: " + r.Verdict.GetReason()
	case r.Progress.GetStableIn() != nil:
		return "verifying"
	}
	return "waiting"
}

// text is all that a verdict says.
func text(v *swarmv1.ServiceVerdict) string {
	return strings.Join([]string{v.GetReason(), v.GetOutlook(), v.GetHint()}, "; ")
}

func TestJudge_VerifiesForTheMonitorTime(t *testing.T) {
	sc := replicated(2).with(tsk(1, 1, running), tsk(2, 1, running))
	j := New(Change{})
	for _, step := range []struct {
		at   time.Duration
		want string
	}{{0, "verifying"}, {4 * time.Second, "verifying"}, {5 * time.Second, "converged"}} {
		if got := outcome(j.see(step.at, sc)); got != step.want {
			t.Errorf("at %s: got %s, want %s", step.at, got, step.want)
		}
	}
	j = New(Change{})
	j.see(0, sc)
	restarted := replicated(2).with(sc.tasks[0], tsk(2, 1, failed), tsk(2, 1, running))
	if got := outcome(j.see(5*time.Second, restarted)); got != "verifying" {
		t.Errorf("a task was restarted: got %s, want verifying", got)
	}
	j = New(Change{})
	short := sc.edit(func(sp *swarmv1.ServiceSpec) { sp.UpdateConfig.Monitor = durationpb.New(time.Second) })
	j.see(0, short)
	if got := outcome(j.see(time.Second, short)); got != "converged" {
		t.Errorf("monitor time 1 s: got %s, want converged", got)
	}
}

// Tasks that have run for the monitor time before the first look are stable. The judge waits only
// for the planner's reaction to the change.
func TestJudge_TasksThatRunAreStable(t *testing.T) {
	sc := replicated(1).with(before(tsk(1, 1, running)))
	j := New(Change{})
	if got := j.see(0, sc); outcome(got) != "verifying" || got.Progress.GetStableIn().AsDuration() != reaction {
		t.Errorf("first look: got %s, stable in %s, want verifying, %s", outcome(got), got.Progress.GetStableIn().AsDuration(), reaction)
	}
	if got := outcome(j.see(reaction, sc)); got != "converged" {
		t.Errorf("after %s: got %s, want converged", reaction, got)
	}
	// The clock of the manager that wrote the status may be ahead.
	ahead := replicated(1).with(before(tsk(1, 1, running)))
	ahead.tasks[0].Status.Meta.UpdatedAt = timestamppb.New(start.Add(time.Hour))
	j = New(Change{})
	j.see(0, ahead)
	if got := outcome(j.see(5*time.Second, ahead)); got != "converged" {
		t.Errorf("status written an hour ahead: got %s after 5 s, want converged", got)
	}
}

// A service that is scaled down has converged when its tasks have stopped. The judge does not wait
// for a node that never reports it.
func TestJudge_ScaleDownWaitsForTasksToStop(t *testing.T) {
	stopping := func() *swarmv1.TaskInfo {
		gone := tsk(1, 1, running)
		gone.Task.DesiredState = swarmv1.TaskState_REMOVE
		return gone
	}
	j := New(Change{})
	if got := outcome(j.see(0, replicated(0).with(tsk(1, 1, running)))); got != "waiting" {
		t.Errorf("not yet told to stop: got %s", got)
	}
	gone := stopping()
	if got := j.see(time.Second, replicated(0).with(gone)); outcome(got) != "waiting" || got.Progress.GetNote() != "1 task still to stop" {
		t.Errorf("told to stop: got %s, %v", outcome(got), got.Progress)
	}
	gone.Status.State = shutdown
	if got := j.see(2*time.Second, replicated(0).with(gone)); outcome(got) != "converged" || got.Progress.GetStopping() != 0 {
		t.Errorf("stopped: got %s, %v", outcome(got), got.Progress)
	}
	silent := New(Change{})
	sc := replicated(0).with(stopping()).edit(func(sp *swarmv1.ServiceSpec) {
		sp.TaskTemplate.ContainerSpec.StopGracePeriod = durationpb.New(3 * time.Second)
	})
	if got := silent.see(0, sc); outcome(got) != "waiting" || got.Again != 5*time.Second {
		t.Errorf("a silent node: got %s, again in %s, want waiting, 5s", outcome(got), got.Again)
	}
	if got := silent.see(5*time.Second, sc); outcome(got) != "converged" || got.Progress.GetStopping() != 1 {
		t.Errorf("a node that stays silent: got %s, %v", outcome(got), got.Progress)
	}
}

// These are the outcomes, with the text of the verdict of each.
func TestJudge_Verdicts(t *testing.T) {
	none := &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_NONE}
	onFailure := &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_ON_FAILURE}
	once := &swarmv1.RestartPolicy{MaxAttempts: 1}
	updated := replicated(1).revise()
	back := replicated(1).update(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, "rollback completed")
	const stays, never = "service web stays as asked for", "is not started again until the service changes"
	for _, c := range []struct {
		name   string
		change Change
		// looks are taken one after the other, with more than confirmAfter between them. The last
		// one is repeated.
		looks []scene
		// end is the outcome. says is text that the verdict must contain, and not is text that it
		// must not contain.
		end       string
		ended     uint64
		says, not []string
	}{
		{
			name: "ended with 0, restart none", looks: []scene{replicated(1).restart(none).with(tsk(1, 1, complete))},
			end: "converged", ended: 1,
		},
		{
			name:  "two of three ended with 0, restart on-failure",
			looks: []scene{replicated(3).restart(onFailure).with(tsk(1, 1, complete), tsk(2, 1, complete), tsk(3, 1, running))},
			end:   "converged", ended: 2,
		},
		{
			name: "ended with 0 and is going to be restarted", looks: []scene{replicated(1).with(tsk(1, 1, complete))},
			end: "waiting",
		},
		{
			name: "ended with 0 and no attempt is left, restart any", looks: []scene{replicated(1).restart(once).with(last(tsk(1, 1, complete)))},
			end: "failed", says: []string{"ended and is not restarted: exit code 0", never}, not: []string{stays},
		},
		{
			name: "ends with 0 again and again, restart any", looks: []scene{replicated(1).with(tsk(1, 1, complete), tsk(1, 1, complete), tsk(1, 1, complete), tsk(1, 1, ready))},
			end: "failed", says: []string{"failed 3 times: exit code 0", stays},
		},
		{
			name: "ended with 3, restart none", looks: []scene{replicated(1).restart(none).with(tsk(1, 1, failed))},
			end: "failed", says: []string{"failed and is not restarted: exit code 3", never}, not: []string{stays},
		},
		{
			name: "keeps failing", looks: []scene{replicated(1).with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, ready))},
			end: "failed", says: []string{"failed 3 times", stays, "started again until they run"}, not: []string{never},
		},
		{
			name: "failed three times, and no attempt is left", looks: []scene{replicated(1).restart(once).with(tsk(1, 1, failed), tsk(1, 1, failed), last(tsk(1, 1, failed)))},
			end: "failed", says: []string{"failed and is not restarted", never}, not: []string{stays},
		},
		{
			name: "nowhere to run", looks: []scene{replicated(1).with(unplaced(1, "memory"))},
			end: "failed", says: []string{"cannot be placed", stays, "as soon as nodes take them"}, not: []string{never},
		},
		{
			name: "a failed job", looks: []scene{replicatedJob(1).with(tsk(1, 1, failed))},
			end: "failed", says: []string{"failed and is not restarted", never}, not: []string{stays},
		},
		{name: "a job that completed", looks: []scene{replicatedJob(1).with(tsk(1, 1, complete))}, end: "converged"},
		{name: "a job on every node, its nodes not counted yet", looks: []scene{globalJob().with(tsk(0, 1, complete))}, end: "converged"},
		{
			name: "the planner decides about an update", change: Change{Revision: 2},
			looks: []scene{updated.update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, failed), tsk(1, 2, failed), tsk(1, 2, failed), tsk(1, 2, ready))},
			end:   "waiting",
		},
		{
			name: "update paused", change: Change{Revision: 2},
			looks: []scene{updated.update(swarmv1.UpdateStatus_PAUSED, "update paused due to failure or early termination of task x").with(tsk(1, 2, failed))},
			end:   "failed", says: []string{"update paused due to failure", "not updated yet keep the previous", "swarm service rollback web"}, not: []string{stays},
		},
		{
			name: "rollback paused", change: Change{Revision: 1},
			looks: []scene{replicated(1).update(swarmv1.UpdateStatus_ROLLBACK_PAUSED, "rollback paused due to x").with(tsk(1, 1, failed))},
			end:   "failed", says: []string{"rollback paused due to x", "not rolled back yet"}, not: []string{stays, "swarm service rollback"},
		},
		{
			name: "rolled back", change: Change{Revision: 2, Index: 20}, looks: []scene{
				updated.update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, failed)),
				replicated(1).update(swarmv1.UpdateStatus_ROLLBACK_STARTED, "update rolled back due to failure").with(tsk(1, 2, failed)),
				back.with(tsk(1, 1, running)),
			},
			end: "failed", says: []string{"update rolled back due to failure; task web.1: exit code 3", "runs its previous specification again"}, not: []string{stays, "completed"},
		},
		{
			name: "rolled back before the first look", change: Change{Revision: 2, Index: 20},
			looks: []scene{back.with(tsk(1, 2, failed), tsk(1, 1, running))},
			end:   "failed", says: []string{"update rolled back; task web.1: exit code 3"},
		},
		{
			name: "rolled back, not running yet", change: Change{Revision: 2, Index: 20}, looks: []scene{back.with(tsk(1, 1, assigned))},
			end: "waiting",
		},
		{
			name: "rolled back to what does not run either", change: Change{Revision: 2, Index: 20},
			looks: []scene{back.with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, ready))},
			end:   "failed", says: []string{"the previous specification does not run either", "failed 3 times"}, not: []string{"runs its previous specification again"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, at := New(c.change), time.Duration(0)
			var got Report
			for _, look := range append(c.looks, slices.Repeat(c.looks[len(c.looks)-1:], 3)...) {
				got, at = j.see(at, look), at+confirmAfter+time.Second
			}
			end, says := outcome(got), text(got.Verdict)
			if strings.HasPrefix(end, "failure") {
				end = "failed"
			}
			if end != c.end || got.Progress.GetEnded() != c.ended {
				t.Errorf("got %s, %d ended: %s; want %s, %d", outcome(got), got.Progress.GetEnded(), says, c.end, c.ended)
			}
			for _, w := range c.says {
				if !strings.Contains(says, w) {
					t.Errorf("got %q, want %q in it", says, w)
				}
			}
			for _, w := range c.not {
				if strings.Contains(says, w) {
					t.Errorf("got %q, which says %q", says, w)
				}
			}
		})
	}
}

func TestJudge_FailsAfterThreeFailuresOfASlot(t *testing.T) {
	j := New(Change{})
	if got := outcome(j.see(0, replicated(1).with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, ready)))); got != "waiting" {
		t.Fatalf("two failures: got %s", got)
	}
	// The rows of the first two have been deleted.
	got := j.see(time.Second, replicated(1).with(tsk(1, 1, failed), tsk(1, 1, ready)))
	if !strings.Contains(outcome(got), "on host1 failed 3 times: exit code 3") || got.Verdict.GetTask() == nil {
		t.Errorf("got %s, task %v", outcome(got), got.Verdict.GetTask())
	}
}

func TestJudge_FailuresBeforeTheChangeDoNotCount(t *testing.T) {
	old := []*swarmv1.TaskInfo{before(tsk(1, 1, failed)), before(tsk(1, 1, failed)), before(tsk(1, 1, failed))}
	if got := outcome(New(Change{Index: 20}).see(0, replicated(1).with(old...).with(tsk(1, 1, ready)))); got != "waiting" {
		t.Errorf("same template: got %s", got)
	}
	if got := outcome(New(Change{}).see(0, replicated(1).revise().with(old...).with(tsk(1, 2, preparing)))); got != "waiting" {
		t.Errorf("older template: got %s", got)
	}
}

// If the restart policy allows no further task, the verdict comes at once.
func TestJudge_NotRestarted(t *testing.T) {
	sc := replicated(2).restart(&swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_NONE}).with(tsk(1, 1, running), tsk(2, 1, rejected))
	if got := outcome(New(Change{}).see(0, sc)); !strings.Contains(got, "failed and is not restarted") {
		t.Errorf("got %s", got)
	}
}

func TestJudge_Unplaced(t *testing.T) {
	j := New(Change{})
	placed := replicated(3).with(unplaced(1, "memory"), tsk(2, 1, running), tsk(3, 1, preparing))
	j.see(0, placed)
	if got := outcome(j.see(confirmAfter, placed)); got != "waiting" {
		t.Errorf("another task is on its way: got %s", got)
	}
	stuck := replicated(3).with(placed.tasks[0], placed.tasks[1], unplaced(3, "memory"))
	j.see(confirmAfter, stuck)
	got := j.see(2*confirmAfter, stuck)
	want := "failure: 2 of 3 tasks cannot be placed: no suitable node (3 nodes: it does not fit); nearest: host2 lacks 1 GiB"
	if outcome(got) != want || !strings.Contains(got.Verdict.GetHint(), "--reserve-") {
		t.Errorf("got %s, hint %q, want %s", outcome(got), got.Verdict.GetHint(), want)
	}
	j = New(Change{})
	j.see(0, replicated(1).with(unplaced(1, "down")))
	if got := outcome(j.see(confirmAfter, replicated(1).with(tsk(1, 1, assigned)))); got != "waiting" {
		t.Errorf("placed in time: got %s", got)
	}
}

func TestJudge_RollingUpdate(t *testing.T) {
	change := Change{Revision: 2, Index: 20}
	old := replicated(2).with(before(tsk(1, 1, running)), before(tsk(2, 1, running)))
	half := old.revise().update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, running))
	j := New(change)
	got := j.see(0, half)
	if outcome(got) != "waiting" || got.Progress.GetRunning() != 1 || got.Progress.GetSlots()[0].GetOutdated() || !got.Progress.GetSlots()[1].GetOutdated() {
		t.Errorf("half: got %s, %v", outcome(got), got.Progress)
	}
	whole := half.with(tsk(2, 2, running))
	j.see(time.Second, whole)
	if got := outcome(j.see(time.Minute, whole)); got != "waiting" {
		t.Errorf("all run, and the planner has not completed the update: got %s", got)
	}
	if got := outcome(j.see(time.Minute, whole.update(swarmv1.UpdateStatus_COMPLETED, ""))); got != "converged" {
		t.Errorf("completed: got %s", got)
	}
	// The planner goes back to revision 1: its tasks are wanted again.
	back := New(change)
	again := old.update(swarmv1.UpdateStatus_ROLLBACK_STARTED, "too many failures").with(tsk(1, 2, failed))
	if got := back.see(0, again); outcome(got) != "verifying" || got.Progress.GetNote() != "rollback: too many failures" {
		t.Errorf("back at revision 1: got %s, %v", outcome(got), got.Progress)
	}
	if got := outcome(back.see(time.Minute, again)); got != "waiting" {
		t.Errorf("the planner is still rolling back: got %s", got)
	}
	asked := New(change)
	if got := outcome(asked.see(0, whole.update(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, "done"))); got != "verifying" {
		t.Errorf("the rollback is the change: got %s", got)
	}
	// The status of an update to an earlier revision says nothing.
	stale := half.update(swarmv1.UpdateStatus_PAUSED, "")
	stale.service.Revision.Meta = &swarmv1.Meta{Version: 20}
	if got := outcome(New(change).see(0, stale)); got != "waiting" {
		t.Errorf("an earlier update was paused: got %s", got)
	}
}

func TestJudge_Global(t *testing.T) {
	sc := replicated(0).edit(func(sp *swarmv1.ServiceSpec) {
		sp.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
	})
	j := New(Change{})
	if got := j.see(0, sc); outcome(got) != "waiting" || got.Again != confirmAfter {
		t.Errorf("no task yet: got %s, again in %s", outcome(got), got.Again)
	}
	sc.service.Status.DesiredTasks = 2
	a, b := tsk(0, 1, running), tsk(0, 1, running)
	b.Task.NodeId, b.NodeName = "m", "host2"
	if got := outcome(j.see(0, sc.with(a))); got != "waiting" {
		t.Errorf("one of two: got %s", got)
	}
	got := j.see(0, sc.with(a, b))
	if outcome(got) != "verifying" || got.Progress.GetSlots()[1].GetLabel() != "host2" {
		t.Errorf("both: got %s, %v", outcome(got), got.Progress)
	}
}

func TestJudge_Job(t *testing.T) {
	j, done := New(Change{}), tsk(1, 1, complete)
	if got := j.see(0, replicatedJob(2).with(done, tsk(2, 1, running))); outcome(got) != "waiting" || got.Progress.GetRunning() != 1 {
		t.Errorf("one of two: got %s, %v", outcome(got), got.Progress)
	}
	if got := outcome(j.see(0, replicatedJob(2).with(done, tsk(2, 1, complete)))); got != "converged" {
		t.Errorf("both: got %s", got)
	}
}

func TestJudge_Removed(t *testing.T) {
	sc := replicated(1)
	sc.service.Service.PendingDelete = true
	if got := outcome(New(Change{}).see(0, sc)); got != "failure: service web is being removed" {
		t.Errorf("got %s", got)
	}
}

// Of more than shownSlots slots the report shows none.
func TestJudge_ManySlots(t *testing.T) {
	sc := replicated(shownSlots)
	for i := range uint64(shownSlots) {
		sc = sc.with(tsk(i+1, 1, running))
	}
	if got := len(New(Change{}).see(0, sc).Progress.GetSlots()); got != shownSlots {
		t.Errorf("%d slots: got %d lines", shownSlots, got)
	}
	more := replicated(shownSlots + 1).with(sc.tasks...).with(tsk(shownSlots+1, 1, running))
	if got := len(New(Change{}).see(0, more).Progress.GetSlots()); got != 0 {
		t.Errorf("%d slots: got %d lines, want none", shownSlots+1, got)
	}
}

// A start-first update that waits for resources of the old tasks has a remedy of its own.
func TestJudge_StuckStartFirst(t *testing.T) {
	for order, want := range map[swarmv1.UpdateConfig_Order]string{
		swarmv1.UpdateConfig_START_FIRST: "`swarm service update --force --update-order stop-first web`",
		swarmv1.UpdateConfig_STOP_FIRST:  "publish another port",
	} {
		stuck := unplaced(1, "port")
		stuck.Task.Replaces = "old"
		sc := replicated(1).with(stuck).edit(func(sp *swarmv1.ServiceSpec) { sp.UpdateConfig.Order = order })
		j := New(Change{})
		j.see(0, sc)
		if got := j.see(confirmAfter, sc).Verdict.GetHint(); !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q in it", order, got, want)
		}
	}
}

// A scheduled job does not run when it is created or updated, so there is nothing to wait for. A
// run that was started is waited for, and may fail.
func TestJudge_ScheduledJobs(t *testing.T) {
	scheduled := func(status *swarmv1.JobStatus) scene {
		sc := replicatedJob(1).edit(func(sp *swarmv1.ServiceSpec) { sp.Job = &swarmv1.JobPolicy{Schedule: "@daily"} })
		sc.service.Service.JobStatus = status
		return sc
	}
	for _, c := range []struct {
		name   string
		change Change
		status *swarmv1.JobStatus
		want   string
	}{
		{"created", Change{Index: 1}, &swarmv1.JobStatus{}, "converged"},
		{"updated while it runs", Change{Index: 1, Revision: 2}, &swarmv1.JobStatus{JobIteration: 3}, "converged"},
		{"a run began", Change{Index: 1}, &swarmv1.JobStatus{JobIteration: 3}, "waiting"},
		{"a run failed", Change{Index: 1}, &swarmv1.JobStatus{JobIteration: 3, Ended: true}, "failure: the run has failed: 0 of 1 tasks completed"},
	} {
		j := New(c.change)
		if got := outcome(j.see(0, scheduled(c.status))); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// A revision that changes limits, secrets or configs moves running tasks to it at once. The service
// has not converged before the workers have changed the containers.
func TestJudge_WaitsForRunningContainersToBeChanged(t *testing.T) {
	changing, changed := tsk(1, 2, running), tsk(2, 2, running)
	changing.Status.AppliedRevision = 1
	j := New(Change{Revision: 2})
	for at := range 3 {
		r := j.see(time.Duration(at)*time.Minute, replicated(2).revise().with(changing, changed))
		if got := outcome(r); got != "waiting" || r.Progress.GetRunning() != 1 {
			t.Errorf("at %d min: got %s with %d running, want waiting with 1", at, got, r.Progress.GetRunning())
		}
		if got, want := r.Progress.GetSlots()[0].GetDetail(), "limits, secrets and configs are being changed"; got != want {
			t.Errorf("slot 1: got %q, want %q", got, want)
		}
	}
	done := replicated(2).revise().with(tsk(1, 2, running), changed)
	if got := outcome(j.see(4*time.Minute, done)); got != "verifying" {
		t.Errorf("the container has the revision: got %s, want verifying", got)
	}
}
