package service

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// scene is what a settler looks at.
type scene struct {
	service *swarmv1.ServiceInfo
	tasks   []*swarmv1.TaskInfo
}

func replicated(n uint64) scene {
	return scene{service: &swarmv1.ServiceInfo{
		Service: &swarmv1.Service{Id: "s", Name: "web", Revision: 1},
		Revision: &swarmv1.Revision{Number: 1, Template: 1, Spec: &swarmv1.ServiceSpec{
			Mode: parseMode("replicated"), TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "app:1"}},
		}},
		Status: &swarmv1.ServiceStatus{DesiredTasks: n},
	}}.scale(n)
}

func (s scene) scale(n uint64) scene {
	s.service = s.service.CloneVT()
	s.service.Revision.Spec.Mode.GetReplicated().Replicas = n
	return s
}

func (s scene) update(st swarmv1.UpdateStatus_State, msg string) scene {
	s.service = s.service.CloneVT()
	s.service.Service.UpdateStatus = &swarmv1.UpdateStatus{State: st, Message: msg}
	return s
}

// revise makes a new revision with another template.
func (s scene) revise() scene {
	s.service = s.service.CloneVT()
	s.service.Service.Revision++
	s.service.Revision.Number++
	s.service.Revision.Template = s.service.Revision.Number
	return s
}

func (s scene) with(tasks ...*swarmv1.TaskInfo) scene {
	s.tasks = append(append([]*swarmv1.TaskInfo{}, s.tasks...), tasks...)
	return s
}

var born int

func tsk(slot, revision uint64, state swarmv1.TaskState) *swarmv1.TaskInfo {
	born++
	desired := swarmv1.TaskState_RUNNING
	if state > swarmv1.TaskState_RUNNING {
		desired = swarmv1.TaskState_SHUTDOWN
	}
	id := "task" + strings.Repeat("x", born)
	return &swarmv1.TaskInfo{
		Task: &swarmv1.Task{
			Id: id, ServiceId: "s", Slot: slot, Revision: revision, DesiredState: desired, NodeId: "n",
			Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(start.Add(time.Duration(born) * time.Second))},
		},
		Status:      &swarmv1.TaskStatus{State: state, ContainerStatus: &swarmv1.ContainerStatus{ExitCode: 3}},
		ServiceName: "web", NodeName: "host1", Image: "docker.io/library/app:1",
	}
}

func unplaced(slot uint64, filter string) *swarmv1.TaskInfo {
	t := tsk(slot, 1, swarmv1.TaskState_PENDING)
	t.Task.NodeId, t.NodeName = "", ""
	t.Status.Unplaced = &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: filter, Nodes: 3, Reason: "it does not fit"}}, Nearest: "host2 lacks 1 GiB"}
	return t
}

func (s *settler) see(at time.Duration, sc scene) verdict {
	for n := range max(sc.service.Revision.Number, 2) {
		if _, ok := s.templates[n+1]; !ok {
			s.learn(&swarmv1.Revision{Number: n + 1, Template: n + 1})
		}
	}
	return s.judge(start.Add(at), sc.service, sc.tasks)
}

func (v verdict) String() string {
	switch {
	case v.settled:
		return "settled"
	case v.failure != nil:
		return "failure: " + v.failure.reason
	case v.progress.Verifying:
		return "verifying"
	}
	return "waiting"
}

func TestSettle_VerifiesForTheMonitorTime(t *testing.T) {
	sc := replicated(2).with(tsk(1, 1, swarmv1.TaskState_RUNNING), tsk(2, 1, swarmv1.TaskState_RUNNING))
	s := newSettler(waitOptions{})
	for _, step := range []struct {
		at   time.Duration
		want string
	}{{0, "verifying"}, {4 * time.Second, "verifying"}, {5 * time.Second, "settled"}} {
		if got := s.see(step.at, sc); got.String() != step.want {
			t.Errorf("at %s: got %s, want %s", step.at, got, step.want)
		}
	}
	// A restart in between starts the time anew.
	s = newSettler(waitOptions{})
	s.see(0, sc)
	restarted := replicated(2).with(sc.tasks[0], tsk(2, 1, swarmv1.TaskState_FAILED), tsk(2, 1, swarmv1.TaskState_RUNNING))
	if got := s.see(5*time.Second, restarted); got.String() != "verifying" {
		t.Errorf("after a restart: got %s, want verifying", got)
	}
	// The monitor time is the update's.
	sc.service.Revision.Spec.UpdateConfig = &swarmv1.UpdateConfig{Monitor: durationpb.New(time.Second)}
	s = newSettler(waitOptions{})
	s.see(0, sc)
	if got := s.see(time.Second, sc); got.String() != "settled" {
		t.Errorf("monitor of 1 s: got %s, want settled", got)
	}
}

// A service that is scaled down has converged when its tasks have stopped. A node that never says so is not waited for.
func TestSettle_ScaleDownWaitsForTasksToStop(t *testing.T) {
	stopping := func() *swarmv1.TaskInfo {
		gone := tsk(1, 1, swarmv1.TaskState_RUNNING)
		gone.Task.DesiredState = swarmv1.TaskState_REMOVE
		return gone
	}
	s := newSettler(waitOptions{})
	if got := s.see(0, replicated(0).with(tsk(1, 1, swarmv1.TaskState_RUNNING))); got.String() != "waiting" {
		t.Errorf("still running: got %s", got)
	}
	gone := stopping()
	if got := s.see(time.Second, replicated(0).with(gone)); got.String() != "waiting" || got.progress.Note != "1 task still to stop" {
		t.Errorf("told to stop: got %s, %+v", got, got.progress)
	}
	gone.Status.State = swarmv1.TaskState_SHUTDOWN
	if got := s.see(2*time.Second, replicated(0).with(gone)); got.String() != "settled" || got.progress.Rest() != "" {
		t.Errorf("stopped: got %s, %q", got, got.progress.Rest())
	}
	silent := newSettler(waitOptions{})
	sc := replicated(0).with(stopping())
	sc.service.Revision.Spec.TaskTemplate.ContainerSpec.StopGracePeriod = durationpb.New(3 * time.Second)
	if got := silent.see(0, sc); got.String() != "waiting" || got.again != 5*time.Second {
		t.Errorf("a silent node: got %s, again %s", got, got.again)
	}
	if got := silent.see(5*time.Second, sc); got.String() != "settled" || got.progress.Rest() != "; 1 task is still being stopped" {
		t.Errorf("a node that stays silent: got %s, %q", got, got.progress.Rest())
	}
}

// Each outcome of waiting, and what the user reads of it: it is made from the state that it speaks of.
func TestSettle_OutcomesAndTheirWords(t *testing.T) {
	const running, complete, failed, assigned, ready = swarmv1.TaskState_RUNNING, swarmv1.TaskState_COMPLETE, swarmv1.TaskState_FAILED, swarmv1.TaskState_ASSIGNED, swarmv1.TaskState_READY
	restart := func(sc scene, c swarmv1.RestartPolicy_Condition) scene {
		sc.service = sc.service.CloneVT()
		sc.service.Revision.Spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: c}
		return sc
	}
	job := func(mode string, desired uint64) scene {
		sc := replicated(0)
		sc.service.Revision.Spec.Mode = parseMode(mode)
		sc.service.Status.DesiredTasks = desired
		return restart(sc, swarmv1.RestartPolicy_NONE)
	}
	exit := func(slot uint64, state swarmv1.TaskState, code int32) *swarmv1.TaskInfo {
		x := tsk(slot, 1, state)
		x.Status.ContainerStatus.ExitCode = code
		return x
	}
	updated := replicated(1).revise()
	back := replicated(1).update(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, "rollback completed")
	back.service.Service.Meta = &swarmv1.Meta{Version: 30}
	const stays, never = "service web stays as asked for", "is not started again until the service changes"
	for _, c := range []struct {
		name string
		wait waitOptions
		// looks are taken one after the other, patience and more apart.
		looks []scene
		// end is the verdict; says what it must say, not what it must not.
		end       string
		says, not []string
	}{
		{
			name: "ended with 0, restart none", looks: []scene{restart(replicated(1), swarmv1.RestartPolicy_NONE).with(exit(1, complete, 0))},
			end: "settled", says: []string{"1 of 1 tasks ended with exit code 0 and is not restarted"},
		},
		{
			name: "two of three ended with 0, restart on-failure", looks: []scene{
				restart(replicated(3), swarmv1.RestartPolicy_ON_FAILURE).with(exit(1, complete, 0), exit(2, complete, 0), tsk(3, 1, running)),
			},
			end: "settled", says: []string{"2 of 3 tasks ended with exit code 0 and are not restarted"},
		},
		{
			name: "ended with 0 and no attempt is left, restart any", looks: []scene{replicated(1).with(exit(1, complete, 0))},
			end: "failed", says: []string{"ended and is not restarted: exit code 0", never}, not: []string{stays},
		},
		{
			name: "ended with 3, restart none", looks: []scene{restart(replicated(1), swarmv1.RestartPolicy_NONE).with(tsk(1, 1, failed))},
			end: "failed", says: []string{"failed and is not restarted: exit code 3", never}, not: []string{stays},
		},
		{
			name: "keeps failing", looks: []scene{replicated(1).with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, ready))},
			end: "failed", says: []string{"failed 3 times", stays, "started again until they run"}, not: []string{never},
		},
		{
			name: "failed three times, and no attempt is left", looks: []scene{replicated(1).with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, failed))},
			end: "failed", says: []string{"failed and is not restarted", never}, not: []string{stays},
		},
		{
			name: "nowhere to run", looks: []scene{replicated(1).with(unplaced(1, "memory"))},
			end: "failed", says: []string{"cannot be placed", stays, "as soon as nodes take them"}, not: []string{never},
		},
		{
			name: "a failed job", looks: []scene{job("replicated-job", 1).with(tsk(1, 1, failed))},
			end: "failed", says: []string{"failed and is not restarted", never}, not: []string{stays},
		},
		{
			name: "a job that completed", looks: []scene{job("replicated-job", 1).with(exit(1, complete, 0))},
			end: "settled", not: []string{"ended"},
		},
		{
			name: "a job on every node, its nodes not counted yet", looks: []scene{job("global-job", 0).with(exit(0, complete, 0))},
			end: "settled",
		},
		{
			name: "update paused", wait: waitOptions{revision: 2}, looks: []scene{
				updated.update(swarmv1.UpdateStatus_PAUSED, "update paused due to failure or early termination of task x").with(tsk(1, 2, failed)),
			},
			end: "failed", says: []string{"update paused due to failure", "not updated yet keep the previous", "swarm service rollback web"}, not: []string{stays},
		},
		{
			name: "rollback paused", wait: waitOptions{revision: 1, rollback: true}, looks: []scene{
				replicated(1).update(swarmv1.UpdateStatus_ROLLBACK_PAUSED, "rollback paused due to x").with(tsk(1, 1, failed)),
			},
			end: "failed", says: []string{"rollback paused due to x", "not rolled back yet"}, not: []string{stays, "swarm service rollback"},
		},
		{
			name: "rolled back", wait: waitOptions{revision: 2, index: 20}, looks: []scene{
				updated.update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, failed)),
				updated.update(swarmv1.UpdateStatus_ROLLBACK_STARTED, "update rolled back due to failure").with(tsk(1, 2, failed)),
				back.with(tsk(1, 2, failed), tsk(1, 1, running)),
			},
			end: "failed", says: []string{"update rolled back due to failure; task web.1: exit code 3", "runs its previous specification again"}, not: []string{stays, "completed"},
		},
		{
			name: "rolled back, not running yet", wait: waitOptions{revision: 2, index: 20}, looks: []scene{back.with(tsk(1, 1, assigned))},
			end: "waiting",
		},
		{
			name: "rolled back to what does not run either", wait: waitOptions{revision: 2, index: 20}, looks: []scene{
				back.with(tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, failed), tsk(1, 1, ready)),
			},
			end: "failed", says: []string{"the previous specification does not run either", "failed 3 times"}, not: []string{"runs its previous specification again"},
		},
		{
			name: "removed", looks: []scene{{service: &swarmv1.ServiceInfo{Service: &swarmv1.Service{Name: "web", PendingDelete: true}, Revision: &swarmv1.Revision{}}}},
			end: "failed", says: []string{"is being removed"}, not: []string{stays, never, "swarm service ps"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, at := newSettler(c.wait), time.Duration(0)
			var v verdict
			for _, look := range append(c.looks, slices.Repeat(c.looks[len(c.looks)-1:], 3)...) {
				v, at = s.see(at, look), at+patience+time.Second
			}
			text, end := v.progress.Rest(), v.String()
			if v.failure != nil {
				text, end = v.failure.text("web"), "failed"
			}
			if end != c.end {
				t.Errorf("got %s: %s, want %s", v, text, c.end)
			}
			for _, w := range c.says {
				if !strings.Contains(text, w) {
					t.Errorf("got %q, want %q in it", text, w)
				}
			}
			for _, w := range append(c.not, "starts as soon as it can") {
				if strings.Contains(text, w) {
					t.Errorf("got %q, which says %q", text, w)
				}
			}
		})
	}
}

// A task that an update has not touched yet shows that it runs, and that it is the old one: on a terminal, where the line is drawn anew.
func TestSettle_OldTasksOfAnUpdate(t *testing.T) {
	sc := replicated(2).revise().update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, swarmv1.TaskState_RUNNING), tsk(2, 1, swarmv1.TaskState_RUNNING))
	p := newSettler(waitOptions{revision: 2}).see(0, sc).progress
	if got, want := term.ProgressLines(p, true, 20), []string{"overall progress: 1 out of 2 tasks", "1/2: running", "2/2: running (old)"}; !slices.Equal(got, want) {
		t.Errorf("terminal: got %q, want %q", got, want)
	}
	if got, want := term.ProgressLines(p, false, 20), []string{"overall progress: 1 out of 2 tasks", "1/2: running"}; !slices.Equal(got, want) {
		t.Errorf("elsewhere: got %q, want %q", got, want)
	}
}

func TestSettle_FailsAfterThreeFailuresOfASlot(t *testing.T) {
	s := newSettler(waitOptions{})
	sc := replicated(1).with(tsk(1, 1, swarmv1.TaskState_FAILED), tsk(1, 1, swarmv1.TaskState_FAILED), tsk(1, 1, swarmv1.TaskState_READY))
	if got := s.see(0, sc); got.String() != "waiting" {
		t.Fatalf("two failures: got %s", got)
	}
	// Rows are reaped; what was seen counts.
	got := s.see(time.Second, replicated(1).with(tsk(1, 1, swarmv1.TaskState_FAILED), tsk(1, 1, swarmv1.TaskState_READY)))
	if !strings.Contains(got.String(), "on host1 failed 3 times: exit code 3") || got.failure.task == nil {
		t.Errorf("got %s", got)
	}
}

func TestSettle_OldFailuresDoNotCount(t *testing.T) {
	old := []*swarmv1.TaskInfo{tsk(1, 1, swarmv1.TaskState_FAILED), tsk(1, 1, swarmv1.TaskState_FAILED), tsk(1, 1, swarmv1.TaskState_FAILED)}
	s := newSettler(waitOptions{before: failedTasks(old)})
	if got := s.see(0, replicated(1).with(old...).with(tsk(1, 1, swarmv1.TaskState_RUNNING))); got.String() != "verifying" {
		t.Errorf("same template: got %s", got)
	}
	s = newSettler(waitOptions{})
	if got := s.see(0, replicated(1).revise().with(old...).with(tsk(1, 2, swarmv1.TaskState_PREPARING))); got.String() != "waiting" {
		t.Errorf("older template: got %s", got)
	}
}

func TestSettle_NotRestarted(t *testing.T) {
	s := newSettler(waitOptions{})
	sc := replicated(2).with(tsk(1, 1, swarmv1.TaskState_RUNNING), tsk(2, 1, swarmv1.TaskState_REJECTED))
	got := s.see(0, sc)
	if got.String() != "waiting" || got.again != patience {
		t.Errorf("at once: got %s, again in %s", got, got.again)
	}
	if got := s.see(patience, sc); !strings.Contains(got.String(), "failed and is not restarted") {
		t.Errorf("after %s: got %s", patience, got)
	}
}

func TestSettle_Unplaced(t *testing.T) {
	s := newSettler(waitOptions{})
	placed := replicated(3).with(unplaced(1, "memory"), tsk(2, 1, swarmv1.TaskState_RUNNING), tsk(3, 1, swarmv1.TaskState_PREPARING))
	s.see(0, placed)
	if got := s.see(patience, placed); got.String() != "waiting" {
		t.Errorf("another is on its way: got %s", got)
	}
	stuck := replicated(3).with(placed.tasks[0], placed.tasks[1], unplaced(3, "memory"))
	s.see(patience, stuck)
	got := s.see(2*patience, stuck)
	want := "failure: 2 of 3 tasks cannot be placed: no suitable node (3 nodes: it does not fit); nearest: host2 lacks 1 GiB"
	if got.String() != want || !strings.Contains(got.failure.hint, "--reserve-") {
		t.Errorf("got %s, hint %+v, want %s", got, got.failure, want)
	}
	// It is placed before patience ends.
	s = newSettler(waitOptions{})
	s.see(0, replicated(1).with(unplaced(1, "down")))
	if got := s.see(patience, replicated(1).with(tsk(1, 1, swarmv1.TaskState_ASSIGNED))); got.String() != "waiting" {
		t.Errorf("placed in time: got %s", got)
	}
}

func TestSettle_RollingUpdate(t *testing.T) {
	s := newSettler(waitOptions{revision: 2, index: 20})
	old := replicated(2).with(tsk(1, 1, swarmv1.TaskState_RUNNING), tsk(2, 1, swarmv1.TaskState_RUNNING))
	if got := s.see(0, old); got.String() != "waiting" || len(got.progress.Tasks) != 0 {
		t.Errorf("a replica that is behind: got %s, %+v", got, got.progress)
	}
	half := old.revise().update(swarmv1.UpdateStatus_UPDATING, "").with(tsk(1, 2, swarmv1.TaskState_RUNNING))
	if got := s.see(0, half); got.String() != "waiting" || got.progress.Running != 1 {
		t.Errorf("half: got %s, %+v", got, got.progress)
	}
	if got := s.see(0, half.update(swarmv1.UpdateStatus_PAUSED, "update paused due to failure")); got.String() != "failure: update paused due to failure" {
		t.Errorf("paused: got %s", got)
	}
	if got := s.see(0, half.update(swarmv1.UpdateStatus_ROLLBACK_STARTED, "too many failures")); got.String() != "waiting" || got.progress.Note != "rollback: too many failures" {
		t.Errorf("rolling back: got %s, %+v", got, got.progress)
	}
	if got := s.see(0, half.update(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, "done")); got.String() != "waiting" {
		t.Errorf("rolled back, and slot 2 does not run yet: got %s", got)
	}
	// The managers go back to revision 1 themselves: its tasks are wanted again, those of revision 2 are not.
	back := newSettler(waitOptions{revision: 2, index: 20})
	again := old.update(swarmv1.UpdateStatus_ROLLBACK_STARTED, "too many failures").with(tsk(3, 2, swarmv1.TaskState_FAILED))
	again.service.Service.Meta = &swarmv1.Meta{Version: 21}
	if got := back.see(0, again); got.String() != "verifying" {
		t.Errorf("back at revision 1: got %s", got)
	}
	if got := back.see(time.Minute, again); got.settled {
		t.Errorf("settled while the managers roll back")
	}
	asked := newSettler(waitOptions{revision: 2, rollback: true})
	whole := half.with(tsk(2, 2, swarmv1.TaskState_RUNNING)).update(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, "done")
	if got := asked.see(0, whole); got.String() != "verifying" {
		t.Errorf("a rollback that was asked for: got %s", got)
	}
	stale := newSettler(waitOptions{revision: 2, oldUpdate: &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_PAUSED}})
	if got := stale.see(0, half.update(swarmv1.UpdateStatus_PAUSED, "")); got.String() != "waiting" {
		t.Errorf("the status of an older update: got %s", got)
	}
}

func TestSettle_Global(t *testing.T) {
	sc := replicated(0)
	sc.service.Revision.Spec.Mode = parseMode("global")
	sc.service.Status.DesiredTasks = 2
	a, b := tsk(0, 1, swarmv1.TaskState_RUNNING), tsk(0, 1, swarmv1.TaskState_RUNNING)
	b.Task.NodeId, b.NodeName = "m", "host2"
	s := newSettler(waitOptions{})
	if got := s.see(0, sc.with(a)); got.String() != "waiting" {
		t.Errorf("one of two: got %s", got)
	}
	got := s.see(0, sc.with(a, b))
	if got.String() != "verifying" || got.progress.Tasks[1].Label != "host2" {
		t.Errorf("both: got %s, %+v", got, got.progress)
	}
}

func TestSettle_Job(t *testing.T) {
	sc := replicated(0)
	sc.service.Revision.Spec.Mode = parseMode("replicated-job")
	sc.service.Revision.Spec.Mode.GetReplicatedJob().TotalCompletions = 2
	s := newSettler(waitOptions{})
	done := tsk(1, 1, swarmv1.TaskState_COMPLETE)
	if got := s.see(0, sc.with(done, tsk(2, 1, swarmv1.TaskState_RUNNING))); got.String() != "waiting" || got.progress.Running != 1 {
		t.Errorf("one of two: got %s, %+v", got, got.progress)
	}
	if got := s.see(0, sc.with(done, tsk(2, 1, swarmv1.TaskState_COMPLETE))); got.String() != "settled" {
		t.Errorf("both: got %s", got)
	}
}

func TestSettle_Removed(t *testing.T) {
	sc := replicated(1)
	sc.service.Service.PendingDelete = true
	if got := newSettler(waitOptions{}).see(0, sc); got.String() != "failure: service web is being removed" {
		t.Errorf("got %s", got)
	}
}

// A start-first update that waits for what the old tasks hold has a remedy of its own.
func TestSettle_StuckStartFirst(t *testing.T) {
	stuck := unplaced(1, "port")
	stuck.Task.Replaces = "old"
	scene := replicated(1).with(stuck)
	scene.service.Revision.Spec.UpdateConfig = &swarmv1.UpdateConfig{Order: swarmv1.UpdateConfig_START_FIRST}
	if got, want := placementFailure(scene.service, scene.tasks, 1).hint, "`swarm service update --force --update-order stop-first web`"; !strings.Contains(got, want) {
		t.Errorf("hint: got %q, want %s in it", got, want)
	}
	scene.service.Revision.Spec.UpdateConfig.Order = swarmv1.UpdateConfig_STOP_FIRST
	if got := placementFailure(scene.service, scene.tasks, 1).hint; !strings.Contains(got, "another port") {
		t.Errorf("hint of a stop-first update: got %q", got)
	}
}
