package worker_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/simulated"
)

// A pull that fails with a permanent error is not repeated.
func TestWorker_ImageThatCannotBeHadIsRejectedAtOnce(t *testing.T) {
	for name, class := range map[string]interface{ WithMessage(string) error }{
		"nobody has it": errdefs.ErrNotFound, "no login": errdefs.ErrUnauthenticated, "not this user": errdefs.ErrPermissionDenied,
		"no certificate": errdefs.ErrFailedPrecondition,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				tries := 0
				r.images.Registry = func(ref string) error {
					tries++
					return class.WithMessage("no " + ref + ": load it")
				}
				m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				r.start()
				s := m.waitState("t1", rejected)
				if want := "no docker.io/library/web:1@sha256:1: load it"; !strings.HasSuffix(s.Err, ": "+want) || strings.Count(s.Err, "load") != 1 || tries != 1 {
					t.Errorf("after %d tries: %q, want %q", tries, s.Err, want)
				}
			})
		})
	}
}

func TestWorker_BusyRegistryIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		times int // that it is busy
		state swarmv1.TaskState
		tries int
	}{{"for a while", 3, running, 4}, {"for long", 100, rejected, 5}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				tries := 0
				r.images.Registry = func(string) error {
					if tries++; tries > c.times {
						return nil
					}
					return errdefs.ErrUnavailable.WithMessage("registry r answered 503 Service Unavailable")
				}
				m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				r.start()
				if s := m.waitErr("t1", "(attempt 3)"); s.State != swarmv1.TaskState_PREPARING ||
					!strings.HasPrefix(s.Err, "pull image ") || !strings.Contains(s.Err, "registry r answered 503 Service Unavailable; trying again in ") {
					t.Errorf("while it waits: %v", s)
				}
				s := m.waitState("t1", c.state)
				if tries != c.tries || strings.Contains(s.Err, "again") || (c.state == running) != (s.Err == "") {
					t.Errorf("after %d tries, want %d: %v", tries, c.tries, s)
				}
			})
		})
	}
}
