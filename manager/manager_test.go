package manager_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
)

// No step from the creation of a service to its running tasks waits for a timer, so that no time
// passes in the bubble.
func TestManager_FromCreateToRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if err := r.mgr.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := r.join("host-a"), r.join("host-b")
		start := time.Now()
		r.create(serviceSpec("web", 4))
		info := r.service("web")
		if got := info.GetStatus(); got.GetRunningTasks() != 4 || got.GetDesiredTasks() != 4 {
			t.Fatalf("after create: %v, want 4 of 4 running", got)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("create to RUNNING waited %s for timers", took)
		}
		if a.running() != 2 || b.running() != 2 {
			t.Errorf("tasks on the nodes: %d and %d, want 2 and 2", a.running(), b.running())
		}
		if image := info.GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(); image != "docker.io/library/demo:1@"+testDigest {
			t.Errorf("image is %q, want it pinned", image)
		}
	})
}

func TestManager_ScaleAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		id := r.create(serviceSpec("web", 3))
		info := r.service("web")
		resp, err := r.admin.UpdateService(t.Context(), &swarmv1.UpdateServiceRequest{Id: "web", Version: info.GetService().GetMeta().GetVersion(), Spec: serviceSpec("web", 1)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := r.service("web").GetStatus().GetRunningTasks(); got != 1 || resp.GetRevision() != 2 {
			t.Errorf("scaled to 1: %d running, revision %d", got, resp.GetRevision())
		}
		if rev := r.service("web").GetRevision(); rev.GetTemplate() != 1 {
			t.Errorf("scaling made template %d, want 1: its tasks would be replaced", rev.GetTemplate())
		}
		if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: id[:8]}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if v := r.store.View(); v.Services.Len()+v.Tasks.Len()+v.Statuses.Len()+v.Revisions.Len()+v.Endpoints.Len() != 0 {
			t.Errorf("left of a removed service: %d services, %d tasks, %d statuses, %d revisions, %d endpoints", v.Services.Len(), v.Tasks.Len(), v.Statuses.Len(), v.Revisions.Len(), v.Endpoints.Len())
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.tasks) != 0 {
			t.Errorf("the worker still has %d tasks", len(a.tasks))
		}
	})
}

// When a worker is silent and gossip reports it as failed, its tasks run elsewhere after three
// heartbeats. When the worker returns, its old tasks are stopped.
func TestManager_LostWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.join("host-a"), r.join("host-b")
		r.create(serviceSpec("web", 2))
		time.Sleep(10 * time.Second) // The grace period of the new leader is over.
		a.silence()
		start := time.Now()
		time.Sleep(time.Second)
		r.gossip.say(a.id, liveness.GossipFailed)
		for r.state(a.id) == swarmv1.NodeState_READY && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); r.state(a.id) != swarmv1.NodeState_DOWN || took > 3500*time.Millisecond || took < 2*time.Second {
			t.Errorf("node is %s after %s, want down after 3 heartbeats", r.state(a.id), took)
		}
		for b.running() < 2 && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("the replacement came after %s", took)
		}
		r.gossip.say(a.id, liveness.GossipAlive)
		a.speak()
		time.Sleep(5 * time.Second)
		if r.state(a.id) != swarmv1.NodeState_READY || a.running() != 0 || b.running() != 2 {
			t.Errorf("after its return the node is %s and runs %d, the other %d; want ready, 0 and 2", r.state(a.id), a.running(), b.running())
		}
	})
}

// A node that announces the shutdown of its host is down at once, and is told so. Its tasks run
// elsewhere although its session goes on. Its later reports of these tasks do not count as
// failures. Its next session makes it READY.
func TestManager_DepartingWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.join("host-a"), r.join("host-b")
		spec := serviceSpec("web", 2)
		spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_NONE}
		r.create(spec)
		synctest.Wait()
		if a.running() != 1 || b.running() != 1 {
			t.Fatalf("%d and %d tasks run, want one on each", a.running(), b.running())
		}
		start := time.Now()
		a.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}})
		synctest.Wait()
		a.mu.Lock()
		parted := a.parted
		a.mu.Unlock()
		if took := time.Since(start); r.state(a.id) != swarmv1.NodeState_DOWN || b.running() != 2 || !parted || took > 100*time.Millisecond {
			t.Errorf("after %s the node is %s, the other runs %d, told: %v; want down, 2 and true at once", took, r.state(a.id), b.running(), parted)
		}
		time.Sleep(30 * time.Second)
		if r.state(a.id) != swarmv1.NodeState_DOWN || b.running() != 2 || a.running() != 0 {
			t.Errorf("later the node is %s and runs %d, the other %d; want down, 0 and 2", r.state(a.id), a.running(), b.running())
		}
		a.cancel()
		time.Sleep(time.Second)
		a = r.open(a.id, "host-a")
		time.Sleep(time.Second)
		if r.state(a.id) != swarmv1.NodeState_READY || b.running() != 2 {
			t.Errorf("after its return the node is %s, the other runs %d; want ready and 2", r.state(a.id), b.running())
		}
	})
}

func TestManager_GossipAloneEvictsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		r.create(serviceSpec("web", 1))
		time.Sleep(20 * time.Second)
		r.gossip.say(a.id, liveness.GossipFailed)
		time.Sleep(time.Minute)
		if r.state(a.id) != swarmv1.NodeState_READY || a.running() != 1 {
			t.Errorf("node is %s and runs %d, want ready and 1", r.state(a.id), a.running())
		}
	})
}

func TestManager_BrokenConnectionAndGossipCountAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		time.Sleep(20 * time.Second)
		r.gossip.say(a.id, liveness.GossipDead)
		start := time.Now()
		a.cancel()
		synctest.Wait()
		if took := time.Since(start); r.state(a.id) != swarmv1.NodeState_DOWN || took != 0 {
			t.Errorf("node is %s after %s, want down at once", r.state(a.id), took)
		}
	})
}

func TestManager_GoneForTheSessionTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		// The time falls between two heartbeats, which come each second, so the last one was half a
		// second before.
		time.Sleep(20*time.Second + 500*time.Millisecond)
		a.cancel()
		time.Sleep(9 * time.Second)
		if r.state(a.id) != swarmv1.NodeState_READY {
			t.Errorf("node is %s after 9 s without a session, want ready", r.state(a.id))
		}
		time.Sleep(2 * time.Second)
		if r.state(a.id) != swarmv1.NodeState_DOWN {
			t.Errorf("node is %s after 11 s without a session, want down", r.state(a.id))
		}
	})
}

func TestManager_ClonedNodeIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		otherMachine := r.open(a.id, "host-x")
		if err := <-otherMachine.done; !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "cloned disk") {
			t.Errorf("a clone with another machine id: got %v, want a refusal", err)
		}
		r.gossip.say(a.id, liveness.GossipAlive)
		sameMachine := r.openAs(a.id, "host-a", "host-y")
		if err := <-sameMachine.done; !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "host-a") {
			t.Errorf("a clone with the same machine id at another address: got %v, want a refusal", err)
		}
		if r.state(a.id) != swarmv1.NodeState_READY {
			t.Errorf("the original is %s, want ready", r.state(a.id))
		}
		again := r.open(a.id, "host-a")
		synctest.Wait()
		if err := <-a.done; !errdefs.IsAborted(err) {
			t.Errorf("the old session of the same host ends with %v, want superseded", err)
		}
		again.mu.Lock()
		defer again.mu.Unlock()
		if again.epoch != 2 {
			t.Errorf("epoch of the second session is %d, want 2", again.epoch)
		}
	})
}

func TestManager_RemovedNodeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		if _, err := r.admin.RemoveNode(t.Context(), &swarmv1.RemoveNodeRequest{Id: "host-a"}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("remove a node that is up: got %v, want a refusal", err)
		}
		if _, err := r.admin.RemoveNode(t.Context(), &swarmv1.RemoveNodeRequest{Id: "host-a", Force: true}); err != nil {
			t.Fatal(err)
		}
		if err := <-a.done; !errdefs.IsPermissionDenied(err) {
			t.Errorf("session of a removed node ends with %v", err)
		}
		again := r.open(a.id, "host-a")
		if err := <-again.done; !errdefs.IsPermissionDenied(err) {
			t.Errorf("new session of a removed node: %v", err)
		}
		for _, w := range []*worker{a, again} {
			w.mu.Lock()
			if !w.removed {
				t.Error("the node was not told that it is removed")
			}
			w.mu.Unlock()
		}
	})
}

// A cluster that has lost state does not know the nodes that joined in it. It must not tell them
// that they were removed, because they would delete their membership.
func TestManager_NodeWithNewerStateIsNotToldThatItIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for want, hello := range map[string]*swarmv1.Hello{
			"newer state": {SeenIndex: 1 << 20},
			"recreated":   {Epoch: 7},
		} {
			w := r.greet(ident.NewID(), hello)
			if err := <-w.done; !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("session ends with %v, want a refusal with %q", err, want)
			}
			w.mu.Lock()
			if w.removed {
				t.Errorf("a node for which %q holds was told that it is removed", want)
			}
			w.mu.Unlock()
		}
	})
}

func TestManager_LateReportsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		r.create(serviceSpec("web", 1))
		var id string
		a.mu.Lock()
		for k := range a.tasks {
			id = k
		}
		a.mu.Unlock()
		for _, st := range []*swarmv1.TaskStatus{
			{TaskId: "nosuchtask", State: swarmv1.TaskState_RUNNING},
			{TaskId: id, State: swarmv1.TaskState_FAILED, Err: "boom"},
			{TaskId: id, State: swarmv1.TaskState_RUNNING},
		} {
			a.report(st)
			synctest.Wait()
		}
		a.mu.Lock()
		if a.acked != a.sequence {
			t.Errorf("acknowledged %d of %d reports", a.acked, a.sequence)
		}
		a.mu.Unlock()
		if st := r.store.View().Status(id); st.GetState() != swarmv1.TaskState_FAILED {
			t.Errorf("a failed task came back to life: %v", st)
		}
		if r.store.View().Status("nosuchtask") != nil {
			t.Error("a status without a task was stored")
		}
		time.Sleep(time.Minute)
		if got := r.service("web").GetStatus().GetRunningTasks(); got != 1 {
			t.Errorf("%d running after a failure, want a replacement", got)
		}
	})
}
