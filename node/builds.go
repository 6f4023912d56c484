package node

import (
	"context"
	"slices"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// buildsInterval is the time between two calls of builds. After an upgrade, shims of the former
// build continue to run until their containers end.
const buildsInterval = 30 * time.Second

// WatchBuilds calls builds every buildsInterval, and calls changed if the result has changed, until
// ctx ends.
func WatchBuilds(ctx context.Context, builds func() []*swarmv1.RunningBuild, changed func()) {
	tick := time.NewTicker(buildsInterval)
	defer tick.Stop()
	known := builds()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := builds()
		if !slices.EqualFunc(now, known, (*swarmv1.RunningBuild).EqualVT) {
			known = now
			changed()
		}
	}
}
