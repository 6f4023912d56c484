package worker_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/simulated"
)

func TestWorker_GapInAssignmentsReconnects(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		time.Sleep(time.Minute)
		m.session.assign(&swarmv1.Assignments{Sequence: 9, Index: 11, Changes: puts(revisionObject(), taskObject("t1", running))})
		m.waitSession(2)
		synctest.Wait()
		if len(m.statuses) != 0 {
			t.Errorf("the worker applied a message after a gap: %v", m.statuses)
		}
	})
}

func TestWorker_LostManagerFailsOver(t *testing.T) {
	for name, lose := range map[string]struct {
		how   func(*manager)
		limit time.Duration
	}{
		"ends":   {func(m *manager) { m.drop(errdefs.ErrUnavailable) }, 0},
		"silent": {func(m *manager) { m.mu.Lock(); m.deaf = true; m.mu.Unlock() }, 5 * time.Second},
		"jammed": {func(m *manager) { m.mu.Lock(); m.jammed = true; m.mu.Unlock() }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1", "m2"}, func(t *testing.T, r *rig) {
				objects := []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				for _, m := range r.managers {
					m.initial = objects
				}
				r.edit = func(_ *worker.Config, d *worker.Deps) {
					d.Describe = func() *swarmv1.NodeDescription { // larger than the gRPC window, so sending it needs a reader
						return &swarmv1.NodeDescription{Hostname: strings.Repeat("h", 128<<10)}
					}
				}
				r.start()
				synctest.Wait()
				first, second := r.managers["m1"], r.managers["m2"]
				if first.sessions == 0 {
					first, second = second, first
				}
				first.waitState("t1", running)
				time.Sleep(time.Minute + time.Second/2)
				began := time.Now()
				lose.how(first)
				for range 2 { // The fake manager still accepts the first.
					r.w.Redescribe()
					synctest.Wait()
				}
				second.waitSession(1)
				if took := time.Since(began); took > lose.limit {
					t.Errorf("failed over after %s, want at most %s", took, lose.limit)
				}
				if got := second.hellos[0].SeenIndex; got != 10 {
					t.Errorf("seen index %d, want 10", got)
				}
				synctest.Wait()
				if r.runtime.Starts() != 1 || len(second.reports) != 0 {
					t.Errorf("%d starts, reports %v: nothing has changed", r.runtime.Starts(), second.reports)
				}
			})
		})
	}
}

func TestWorker_UnackedStatusesAreSentAgainOnce(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running), taskObject("t2", running)}
		m.noAck = true
		r.start()
		m.wait("a report", func() bool { return len(m.reports) == 1 })
		time.Sleep(3*time.Second + time.Second/2)
		if len(m.reports) != 1 {
			t.Errorf("%d reports while one is not acknowledged", len(m.reports))
		}
		m.mu.Lock()
		m.noAck = false
		m.mu.Unlock()
		m.drop(errdefs.ErrUnavailable)
		m.waitState("t1", running)
		m.waitState("t2", running)
		time.Sleep(time.Minute)
		m.drop(errdefs.ErrUnavailable)
		m.waitSession(3)
		synctest.Wait()
		for id, h := range m.history {
			if !slices.Equal(h, []swarmv1.TaskState{running}) {
				t.Errorf("%s was reported as %v", id, h)
			}
		}
		if s := m.statuses["t1"]; s.SessionEpoch != 2 {
			t.Errorf("session epoch %d, want 2", s.SessionEpoch)
		}
	})
}

func TestWorker_RefusesStateOlderThanItHasSeen(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		time.Sleep(time.Minute)
		m.mu.Lock()
		m.index, m.initial = 9, nil
		m.mu.Unlock()
		m.drop(errdefs.ErrUnavailable)
		m.waitSession(3)
		if r.w.Tasks() != 1 {
			t.Fatal("older state took the task away")
		}
		m.mu.Lock()
		m.index, m.cluster = 3, 2 // The index is of another cluster state, so it cannot be compared.
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		if r.w.Tasks() != 0 {
			t.Error("the new epoch's state was not taken")
		}
	})
}

func TestWorker_RemovedNodeIsTold(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		r.managers["m1"].removed = true
		told := make(chan *swarmv1.NodeUpdate, 1)
		r.edit = func(_ *worker.Config, d *worker.Deps) {
			d.OnNode = func(u *swarmv1.NodeUpdate) {
				select {
				case told <- u:
				default:
				}
			}
		}
		r.start()
		if u := <-told; !u.Removed {
			t.Errorf("told %v", u)
		}
	})
}

// After a renewal of the certificate the worker ends the old session in order and begins a new one
// at once.
func TestWorker_RenewalBeginsTheSessionAnew(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		renewed := make(chan struct{})
		r.edit = func(_ *worker.Config, d *worker.Deps) {
			d.Renewed = func() <-chan struct{} { return renewed }
		}
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		time.Sleep(time.Minute)
		before := renewed
		renewed = make(chan struct{})
		began := time.Now()
		close(before)
		m.waitSession(2)
		if took := time.Since(began); took > 0 {
			t.Errorf("the new session came after %s, want at once", took)
		}
		time.Sleep(time.Minute)
		if m.sessions != 2 {
			t.Errorf("%d sessions, want 2", m.sessions)
		}
	})
}
