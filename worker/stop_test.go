package worker_test

import (
	"errors"
	"sync/atomic"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/simulated"
)

// A container that does not stop keeps its task. The user sees the reason, and it is gone when the
// container has stopped.
func TestWorker_SaysWhyAContainerDoesNotStop(t *testing.T) {
	for _, op := range []string{"stop", "remove"} {
		t.Run(op, func(t *testing.T) {
			var stuck atomic.Bool
			stuck.Store(true)
			cfg := simulated.Config{Fail: func(o, _ string) error {
				if o == op && stuck.Load() {
					return errors.New("its shim does not answer")
				}
				return nil
			}}
			bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				m.assign(puts(taskObject("t1", shutdown))...)
				m.waitErr("t1", "its shim does not answer")
				stuck.Store(false)
				m.wait("the reason to be gone", func() bool {
					return m.statuses["t1"].GetState() == shutdown && m.statuses["t1"].GetErr() == ""
				})
			})
		})
	}
}
