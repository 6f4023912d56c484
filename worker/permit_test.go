package worker_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/simulated"
)

// A preparation that hangs and cannot be interrupted delays neither the node's other containers,
// nor the removal of its own, nor the end of the daemon.
func TestWorker_HangingWorkHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		r := newRig(t, simulated.Config{Fail: func(op, id string) error {
			if strings.HasPrefix(id, "bad") && op == "prepare" {
				<-hang
			}
			return nil
		}}, "m1")
		defer r.close()
		defer close(hang)
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject()}
		for i := range 8 {
			m.initial = append(m.initial, taskObject(fmt.Sprintf("bad%d", i), running))
		}
		r.start()
		m.waitSession(1)
		synctest.Wait()
		began := time.Now()
		m.assign(puts(taskObject("good", running))...)
		m.waitState("good", running)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("a task ran %v after tasks whose preparation hangs", took)
		}
		began = time.Now()
		m.assign(removal(swarmv1.AssignmentRef_TASK, "bad0"))
		for r.w.Tasks() != 8 {
			if time.Since(began) > time.Minute {
				t.Fatalf("%d tasks after the removal of one of 9", r.w.Tasks())
			}
			time.Sleep(time.Second)
		}
		began = time.Now()
		r.stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the worker ended after %v", took)
		}
	})
}
