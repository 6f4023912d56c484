package raftstore

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// BenchmarkApply applies entries of 100 changed statuses to a state of 100,000 rows, while readers
// take views as watchers do: one view for each entry, and a few reads in it.
func BenchmarkApply(b *testing.B) {
	const rows, each = 100_000, 100
	status := func(i int) *swarmv1.Change {
		return table.Put(&swarmv1.TaskStatus{TaskId: fmt.Sprintf("%025x", uint32(i%rows)*2654435761), State: 512, Sequence: uint64(i)})
	}
	for _, readers := range []int{0, 1, 8} {
		b.Run(fmt.Sprintf("readers=%d", readers), func(b *testing.B) {
			f := newFSM()
			all := &swarmv1.Group{}
			for i := range rows {
				all.Changes = append(all.Changes, status(i))
			}
			f.Apply(logOf(b, 1, &swarmv1.Envelope{Format: 1, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{all}}}}))
			stop := make(chan struct{})
			waits := make([][]time.Duration, readers)
			var wg sync.WaitGroup
			for r := range readers {
				wg.Go(func() {
					for tick := time.NewTicker(time.Millisecond); ; {
						select {
						case <-stop:
							tick.Stop()
							return
						case <-tick.C:
						}
						began := time.Now()
						v := f.view()
						waits[r] = append(waits[r], time.Since(began))
						for i := range 10 {
							v.Statuses.Get(fmt.Sprintf("%025x", uint32(i)*2654435761))
						}
					}
				})
			}
			next, index := 0, uint64(1)
			for b.Loop() {
				b.StopTimer()
				g := &swarmv1.Group{}
				for range each {
					g.Changes = append(g.Changes, status(next*7919))
					next++
				}
				index++
				l := logOf(b, index, &swarmv1.Envelope{Format: 1, Requests: []*swarmv1.Request{{Groups: []*swarmv1.Group{g}}}})
				b.StartTimer()
				f.Apply(l)
			}
			close(stop)
			wg.Wait()
			if took := slices.Concat(waits...); len(took) > 0 {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "view-p99-µs")
				b.ReportMetric(float64(took[len(took)-1].Nanoseconds())/1000, "view-max-µs")
			}
		})
	}
}
