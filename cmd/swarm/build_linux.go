package main

import (
	"context"
	"slices"
	"time"

	"swarm/containerd/binary"
	"swarm/containerd/layout"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// censusInterval is how often it is looked which builds run: shims of a former one end with their containers.
	censusInterval = 30 * time.Second
	// orphanPatience bounds the search for execs of a former daemon.
	orphanPatience = 10 * time.Second
)

// running tells which part of this node runs from which build.
func (h *host) running() []binary.Running {
	all := []binary.Running{{Part: "daemon", Build: versionInfo().Build}}
	if h.companion == nil {
		return all
	}
	copies, err := binary.Census(layout.Layout{Data: h.options.StateDir, Run: h.options.RunDir}.Bin())
	if err != nil {
		h.log.Warn("look which builds run", "err", err)
	}
	return append(all, copies...)
}

func (h *host) builds() []*swarmv1.RunningBuild {
	var out []*swarmv1.RunningBuild
	for _, r := range h.running() {
		out = append(out, &swarmv1.RunningBuild{Part: r.Part, Build: r.Build})
	}
	return out
}

// watchBuilds calls changed whenever other builds run than before.
func (h *host) watchBuilds(ctx context.Context, changed func()) {
	tick := time.NewTicker(censusInterval)
	defer tick.Stop()
	known := h.running()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if now := h.running(); !slices.Equal(now, known) {
			known = now
			changed()
		}
	}
}

// endExecs ends what a daemon before this one has left running in containers for somebody who is gone.
func (h *host) endExecs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, orphanPatience)
	defer cancel()
	ended, err := h.execs.EndExecs(ctx)
	if err != nil {
		h.log.Warn("execs of a former daemon may run still", "err", err)
	}
	if ended > 0 {
		h.log.Info("execs of a former daemon were ended", "count", ended)
	}
}
