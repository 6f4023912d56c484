package worker_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

func TestWorker_RestartAdoptsWhatRuns(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = append([]*swarmv1.Assignment{revisionObject()}, taskObject("t1", running), taskObject("t2", running), taskObject("t3", isReady))
		r.start()
		m.waitState("t1", running)
		m.waitState("t2", running)
		m.waitState("t3", isReady)
		synctest.Wait()
		r.stop()
		r.runtime.End("t2", engine.Exit{Code: 7})
		stray := engine.Container{Task: &swarmv1.Task{Id: "stray"}, Revision: revisionObject().GetRevision()}
		if err := r.runtime.Prepare(t.Context(), stray); err != nil {
			t.Fatal(err)
		}
		if _, err := r.runtime.Start(t.Context(), "stray"); err != nil {
			t.Fatal(err)
		}
		files := worker.FilesDir(r.run)
		if err := os.MkdirAll(filepath.Join(files, "gone"), 0o700); err != nil {
			t.Fatal(err)
		}
		starts := r.runtime.Starts()
		m.mu.Lock()
		m.refuse = errdefs.ErrUnavailable
		m.history = map[string][]swarmv1.TaskState{}
		m.mu.Unlock()

		r.start()
		time.Sleep(5 * time.Second)
		if _, ok := r.runtime.Container("stray"); !ok {
			t.Error("a container was removed before the managers said which tasks there are")
		}
		m.mu.Lock()
		m.refuse = nil
		m.mu.Unlock()
		s := m.waitState("t2", failed)
		if s.ContainerStatus.ExitCode != 7 {
			t.Errorf("status of t2: got %v, want exit code 7", s)
		}
		synctest.Wait()
		if _, ok := r.runtime.Container("stray"); ok {
			t.Error("a container that no task owns was kept")
		}
		if got := r.runtime.Starts(); got != starts {
			t.Errorf("%d containers were started again", got-starts)
		}
		for name, want := range map[string]bool{"t1": true, "t3": true, "gone": false} {
			if _, err := os.Stat(filepath.Join(files, name)); (err == nil) != want {
				t.Errorf("files of task %s: got %v, want them kept: %t", name, err, want)
			}
		}
		if want := map[string][]swarmv1.TaskState{"t2": {failed}}; !cmp.Equal(m.history, want) {
			t.Errorf("reports after the restart = %v, want %v", m.history, want)
		}
		if kept := r.network.Restored()[1]; len(kept) != 3 || len(kept[0].Networks) != 1 {
			t.Errorf("restored networks: got %v, want three tasks, the first with one network", kept)
		}
		m.assign(puts(taskObject("t3", running))...)
		m.waitState("t3", running)
	})
}

// A daemon that is killed right after it has stopped a container may not have recorded that the
// stop was requested.
func TestWorker_StopThatWasForgottenIsNoFailure(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running), taskObject("t2", running), taskObject("t3", running)}
		r.start()
		for _, id := range []string{"t1", "t2", "t3"} {
			m.waitState(id, running)
		}
		synctest.Wait()
		r.stop()
		for _, id := range []string{"t1", "t2", "t3"} {
			r.runtime.End(id, engine.Exit{Code: 2})
		}
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", swarmv1.TaskState_SHUTDOWN), taskObject("t3", running)}
		r.start()
		if s := m.waitState("t1", swarmv1.TaskState_SHUTDOWN); s.GetErr() != "" || s.GetContainerStatus().GetExitCode() != 2 {
			t.Errorf("t1, which the managers had stopped: %v", s)
		}
		m.wait("the end of t2", func() bool { return m.statuses["t2"].GetState() >= swarmv1.TaskState_COMPLETE || r.w.Tasks() == 2 })
		if s := m.status("t2"); s.GetState() == failed {
			t.Errorf("t2, which is assigned no more: %v", s)
		}
		if s := m.waitState("t3", failed); s.GetContainerStatus().GetExitCode() != 2 {
			t.Errorf("t3, which should run: %v", s)
		}
	})
}

func TestWorker_TaskThatHadNotStartedWaitsForTheManagers(t *testing.T) {
	bubble(t, simulated.Config{Delays: simulated.Delays{Prepare: time.Hour}}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", swarmv1.TaskState_PREPARING)
		r.stop()
		m.initial = nil // The task runs elsewhere by now.
		r.start()
		m.waitSession(2)
		time.Sleep(2 * time.Hour)
		if r.runtime.Starts() != 0 || r.w.Tasks() != 0 {
			t.Errorf("%d starts, %d tasks: a task was started that this node has no more", r.runtime.Starts(), r.w.Tasks())
		}
	})
}
