//go:build linux

package plane

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/vip"
)

// retryAfter is the pause after something could not be programmed.
const retryAfter = time.Second

// Run follows the directory until ctx ends, and then leaves all as it is: traffic goes on.
func (p *Plane) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	var failed directory.Changes
	for {
		var gossip <-chan struct{}
		if p.deps.Gossip != nil {
			var report directory.Report
			report, gossip = p.deps.Gossip()
			p.deps.Directory.Hear(report)
		}
		changes, changed := p.deps.Directory.Take()
		changes = changes.With(failed)
		failed = directory.Changes{}
		if err := p.sync(ctx, changes); err != nil && ctx.Err() == nil {
			p.deps.Log.Error("program the overlay", "err", err)
			failed = changes
			retry.Reset(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-gossip:
		case <-retry.C:
		}
	}
}

// sync programs what changed. All of it is tried, whatever fails.
func (p *Plane) sync(ctx context.Context, changes directory.Changes) error {
	if changes.Empty() {
		return nil
	}
	var errs []error
	for id := range changes.Networks {
		errs = append(errs, p.deps.Fabric.Sync(ctx, id, endpoints(p.deps.Directory.Remote(id))))
	}
	networks, gone := p.affected(changes)
	// Tasks on the same networks share a table. What changes while it is written is written in the next round.
	tables := map[string]vip.Table{}
	for _, t := range p.tasksOn(networks) {
		table, ok := tables[t.networks()]
		if !ok {
			table = p.table(t)
			tables[t.networks()] = table
		}
		errs = append(errs, p.program(ctx, t, func() vip.Table { return table }), p.reset(ctx, t, gone))
	}
	return errors.Join(errs...)
}

func endpoints(members []directory.Member) []fabric.Endpoint {
	out := make([]fabric.Endpoint, 0, len(members))
	for _, m := range members {
		out = append(out, fabric.Endpoint{Addresses: m.Addresses, Host: m.Underlay})
	}
	return out
}

// affected gives the networks on which services changed, and the addresses on each that no task has any more.
func (p *Plane) affected(changes directory.Changes) (networks map[string]bool, gone map[string][]netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	networks, gone = map[string]bool{}, map[string][]netip.Addr{}
	for id := range changes.Services {
		was := p.seen[id]
		now, ok := p.deps.Directory.Service(id)
		if ok {
			p.seen[id] = now
		} else {
			delete(p.seen, id)
		}
		has := map[string]bool{}
		for _, s := range []directory.Service{now, was} {
			for network := range s.VIPs {
				networks[network] = true
			}
		}
		for _, b := range now.Tasks {
			has[b.GetTaskId()] = true
			for network := range b.Addresses {
				networks[network] = true
			}
		}
		for _, b := range was.Tasks {
			for network, addresses := range b.Addresses {
				networks[network] = true
				if !has[b.GetTaskId()] {
					gone[network] = append(gone[network], addresses...)
				}
			}
		}
	}
	return networks, gone
}

func (p *Plane) tasksOn(networks map[string]bool) []*attached {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*attached
	for _, t := range p.tasks {
		if t.on(networks) {
			out = append(out, t)
		}
	}
	return out
}

// table is every service address on the task's networks, with the backends that may get new connections there.
func (p *Plane) table(t *attached) vip.Table {
	var out vip.Table
	taken := map[netip.Addr]bool{} // Networks with the same subnet may have the same addresses: the first network wins.
	for _, o := range t.Overlays {
		network := o.Network.GetId()
		for _, id := range p.deps.Directory.ServicesOn(network) {
			s, _ := p.deps.Directory.Service(id)
			if len(s.VIPs[network]) == 0 {
				continue
			}
			service := vip.Service{}
			for _, prefix := range s.VIPs[network] {
				if !taken[prefix.Addr()] {
					taken[prefix.Addr()] = true
					service.VIPs = append(service.VIPs, prefix.Addr())
				}
			}
			for _, b := range s.Backends {
				service.Backends = append(service.Backends, b.Addresses[network]...)
			}
			out.Services = append(out.Services, service)
		}
	}
	return out
}

// reset cuts the task's connections to backends that are no more.
func (p *Plane) reset(ctx context.Context, t *attached, gone map[string][]netip.Addr) error {
	var all []netip.Addr
	for _, o := range t.Overlays {
		all = append(all, gone[o.Network.GetId()]...)
	}
	if len(all) == 0 {
		return nil
	}
	return p.deps.Tables.Reset(ctx, t.Result.Netns, all)
}
