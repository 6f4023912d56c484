//go:build linux

package resolve

import (
	"slices"
	"sync/atomic"

	swarmv1 "swarm/proto/swarm/v1"
)

// asker is what a container may ask for, with the counts of what it asked.
type asker struct {
	*swarmv1.ResolverContainer
	// on counts what each of its networks answered, in their order; elsewhere what none of them has.
	on        []*atomic.Uint64
	elsewhere *atomic.Uint64
}

// newAsker goes on with the counts of a former one, nil when there is none.
func newAsker(cfg *swarmv1.ResolverContainer, former *asker) *asker {
	a := &asker{cfg, make([]*atomic.Uint64, len(cfg.NetworkIds)), new(atomic.Uint64)}
	for i := range a.on {
		a.on[i] = new(atomic.Uint64)
	}
	if former == nil {
		return a
	}
	a.elsewhere = former.elsewhere
	for i, id := range cfg.NetworkIds {
		if was := slices.Index(former.NetworkIds, id); was >= 0 {
			a.on[i] = former.on[was]
		}
	}
	return a
}

// count adds a question that the network at that place answered.
func (a *asker) count(network int) {
	if network == nowhere {
		a.elsewhere.Add(1)
		return
	}
	a.on[network].Add(1)
}

func (a *asker) asked() *swarmv1.ResolverAsked {
	out := &swarmv1.ResolverAsked{ContainerId: a.Id, Elsewhere: a.elsewhere.Load()}
	for i, id := range a.NetworkIds {
		out.Networks = append(out.Networks, &swarmv1.ResolverAskedNetwork{NetworkId: id, Queries: a.on[i].Load()})
	}
	return out
}
