package main

import (
	"swarm/containerd/binary"
	swarmv1 "swarm/proto/swarm/v1"
)

// builds returns the build of each running part of this node. The builds differ after an upgrade,
// because the shims of former builds go on.
func (h *host) builds() []*swarmv1.RunningBuild {
	out := []*swarmv1.RunningBuild{{Part: "daemon", Build: versionInfo().Build}}
	if h.companion == nil {
		return out
	}
	copies, err := binary.Census(h.layout().Bin())
	if err != nil {
		h.log.Warn("look which builds run", "err", err)
	}
	for _, r := range copies {
		out = append(out, &swarmv1.RunningBuild{Part: r.Part, Build: r.Build})
	}
	return out
}
