package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestWatchBuilds_ReportsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var builds atomic.Pointer[[]*swarmv1.RunningBuild]
		var changes atomic.Int32
		run := func(b ...*swarmv1.RunningBuild) { builds.Store(&b) }
		run(&swarmv1.RunningBuild{Part: "daemon", Build: "b2"}, &swarmv1.RunningBuild{Part: "shim", Build: "b1"})
		go WatchBuilds(ctx, func() []*swarmv1.RunningBuild { return *builds.Load() }, func() { changes.Add(1) })
		time.Sleep(5 * buildsInterval / 2)
		if got := changes.Load(); got != 0 {
			t.Errorf("%d changes are reported, and there was none", got)
		}
		run(&swarmv1.RunningBuild{Part: "daemon", Build: "b2"})
		time.Sleep(3 * buildsInterval)
		if got := changes.Load(); got != 1 {
			t.Errorf("one build has ended: %d changes are reported", got)
		}
		run(&swarmv1.RunningBuild{Part: "daemon", Build: "b3"})
		time.Sleep(buildsInterval)
		if got := changes.Load(); got != 2 {
			t.Errorf("another build runs: %d changes are reported", got-1)
		}
		cancel()
		synctest.Wait()
	})
}
