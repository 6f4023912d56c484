package worker_test

import (
	"fmt"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/simulated"
)

// BenchmarkWorker_AssignmentToRunning measures the worker's share of a service's start: the time
// from a manager's message until the manager has the status RUNNING, over gRPC in memory.
func BenchmarkWorker_AssignmentToRunning(b *testing.B) {
	r := newRig(b, simulated.Config{}, "m1")
	defer r.close()
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject()}
	r.start()
	m.waitSession(1)
	for i := range b.N {
		id := fmt.Sprintf("t%d", i)
		m.assign(puts(taskObject(id, running))...)
		m.waitState(id, running)
	}
}

// BenchmarkWorker_Thousand starts and stops 1,000 tasks.
func BenchmarkWorker_Thousand(b *testing.B) {
	const n = 1000
	r := newRig(b, simulated.Config{}, "m1")
	defer r.close()
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject()}
	r.start()
	m.waitSession(1)
	var up, down time.Duration
	for i := range b.N {
		var ids []string
		for k := range n {
			ids = append(ids, fmt.Sprintf("t%d-%d", i, k))
		}
		for _, desired := range []swarmv1.TaskState{running, shutdown} {
			var objects []*swarmv1.Assignment
			for _, id := range ids {
				objects = append(objects, taskObject(id, desired))
			}
			began := time.Now()
			m.assign(puts(objects...)...)
			m.wait("all "+desired.String(), func() bool {
				for _, id := range ids {
					if m.statuses[id].GetState() != desired {
						return false
					}
				}
				return true
			})
			if desired == running {
				up += time.Since(began)
			} else {
				down += time.Since(began)
			}
		}
	}
	b.ReportMetric(up.Seconds()*1e3/float64(b.N), "up-ms")
	b.ReportMetric(down.Seconds()*1e3/float64(b.N), "down-ms")
}
