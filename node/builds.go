package node

import (
	"context"
	"slices"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// buildsInterval is the time between two looks at which builds run. After an upgrade, the shims of
// the former build go on until their containers end.
const buildsInterval = 30 * time.Second

// WatchBuilds calls changed each time that the result of builds has changed, until ctx ends. It
// looks every 30 seconds.
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
