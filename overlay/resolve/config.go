//go:build linux

package resolve

import (
	"slices"
	"sync/atomic"

	swarmv1 "swarm/proto/swarm/v1"
)

// containerConfig is the configuration of a container, and the counts of its queries. The counts
// are atomic, and the rest does not change.
type containerConfig struct {
	*swarmv1.ResolverContainer
	// perNetwork counts the queries that each network answered, in the order of NetworkIds.
	// unmatched counts the queries that no network answered.
	perNetwork []*atomic.Uint64
	unmatched  *atomic.Uint64
}

// newContainerConfig keeps the counts of the previous configuration. previous is nil for a new
// container.
func newContainerConfig(cfg *swarmv1.ResolverContainer, previous *containerConfig) *containerConfig {
	c := &containerConfig{cfg, make([]*atomic.Uint64, len(cfg.NetworkIds)), new(atomic.Uint64)}
	for i := range c.perNetwork {
		c.perNetwork[i] = new(atomic.Uint64)
	}
	if previous == nil {
		return c
	}
	c.unmatched = previous.unmatched
	for i, id := range cfg.NetworkIds {
		if old := slices.Index(previous.NetworkIds, id); old >= 0 {
			c.perNetwork[i] = previous.perNetwork[old]
		}
	}
	return c
}

// count counts a query. network is an index in NetworkIds, or noNetwork.
func (c *containerConfig) count(network int) {
	if network == noNetwork {
		c.unmatched.Add(1)
		return
	}
	c.perNetwork[network].Add(1)
}

func (c *containerConfig) stats() *swarmv1.ResolverAsked {
	out := &swarmv1.ResolverAsked{ContainerId: c.Id, Elsewhere: c.unmatched.Load()}
	for i, id := range c.NetworkIds {
		out.Networks = append(out.Networks, &swarmv1.ResolverAskedNetwork{NetworkId: id, Queries: c.perNetwork[i].Load()})
	}
	return out
}
