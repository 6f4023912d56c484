package main

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/containerd/binary"
	"swarm/worker/containerd/layout"
)

// orphanTimeout bounds the search for execs of a former daemon.
const orphanTimeout = 10 * time.Second

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

// endExecs ends what a daemon before this one has left running in containers for somebody who is gone.
func (h *host) endExecs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, orphanTimeout)
	defer cancel()
	ended, err := h.execs.EndExecs(ctx)
	if err != nil {
		h.log.Warn("execs of a former daemon may run still", "err", err)
	}
	if ended > 0 {
		h.log.Info("execs of a former daemon were ended", "count", ended)
	}
}
