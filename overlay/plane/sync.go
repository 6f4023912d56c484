//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/vip"
)

const (
	// retryAfter is the pause after something could not be programmed.
	retryAfter = time.Second
	// knockAfter, times retryAfter, is when a port that another program has is asked for again.
	knockAfter = 10
	// ownTrouble is how many times in a row a task's namespace may fail before that is the task's own trouble: its container may
	// be privileged to change the namespace, and must not keep the host from saying that the rest is in force.
	ownTrouble = 3
)

// Run follows the directory, from Restore on, until ctx ends, and then leaves all as it is: traffic goes on.
func (p *Plane) Run(ctx context.Context) error {
	select {
	case <-p.restored: // To program before would be to take away what tasks have that are not known yet.
	case <-ctx.Done():
		return nil
	}
	retry := time.NewTicker(retryAfter)
	defer retry.Stop()
	for rounds := 0; ; {
		var gossip <-chan struct{}
		if p.deps.Gossip != nil {
			var report directory.Report
			report, gossip = p.deps.Gossip()
			p.deps.Directory.Hear(report)
		}
		changed := p.deps.Directory.Changed()
		if err := p.catchUp(ctx); err != nil && ctx.Err() == nil {
			p.troubles.Log(slog.LevelError, err.Error(), "program the overlay", "err", err)
		}
		if err := p.cut(ctx); err != nil && ctx.Err() == nil {
			p.troubles.Log(slog.LevelError, err.Error(), "cut connections to tasks that have ended", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-gossip:
		case <-retry.C: // What failed is still pending.
			if rounds++; rounds%knockAfter == 0 {
				p.knock()
			}
		}
	}
}

// knock has the mesh try ports again that another program had: nobody tells when one is free.
func (p *Plane) knock() {
	p.turn.Lock()
	defer p.turn.Unlock()
	if len(p.told) > 0 {
		p.pending = p.pending.With(directory.Changes{Peers: true})
	}
}

// catchUp programs all that has changed so far. What fails stays pending.
func (p *Plane) catchUp(ctx context.Context) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	p.pending = p.deps.Directory.Take().With(p.pending)
	if p.pending.Empty() && !p.troubled() {
		return nil
	}
	began := time.Now()
	on, err := p.sync(ctx, p.pending)
	p.report(on, time.Since(began))
	if err != nil {
		return err
	}
	p.deps.Log.Debug("programmed", "networks", len(p.pending.Networks), "members", len(p.pending.Members), "services", len(p.pending.Services), "took", time.Since(began))
	p.pending = directory.Changes{}
	return nil
}

// cut resets connections to what has ended. It takes long where there are many, and what it cuts is of no more use: neither
// changes nor tasks that start wait for it.
func (p *Plane) cut(ctx context.Context) error {
	p.turn.Lock()
	cuts := p.cuts
	p.cuts = nil
	p.turn.Unlock()
	var errs []error
	for _, c := range cuts {
		errs = append(errs, c(ctx))
	}
	return errors.Join(errs...)
}

// sync programs what changed. All of it is tried, whatever fails.
func (p *Plane) sync(ctx context.Context, changes directory.Changes) (concerned, error) {
	on := concerned{}
	errs := []error{p.syncNetworks(ctx, changes, on)}
	if changes.Peers {
		errs = append(errs, p.guardPorts(ctx))
	}
	d := p.difference(changes)
	tasks := p.tasksOn(d)
	errs = append(errs, p.followAll(ctx, tasks, d, on))
	for _, t := range tasks {
		p.reset(t, d.gone)
	}
	// That a service was published is known only once: a port that could not be given back is owed.
	if p.meshOwed = p.meshOwed || d.meshed || changes.Peers; p.meshOwed {
		err := p.syncMesh(ctx, d.ended)
		p.meshOwed = err != nil
		on.note(p.deps.Directory.Ingress().GetId(), err)
		errs = append(errs, err)
	}
	return on, errors.Join(errs...)
}

// guardPorts has the bridge keep tasks from the ports that nodes serve the cluster on.
func (p *Plane) guardPorts(ctx context.Context) error {
	var ports []uint16
	for _, peer := range p.deps.Directory.Peers() {
		if peer.Port != 0 {
			ports = append(ports, peer.Port)
		}
	}
	slices.Sort(ports)
	if err := p.deps.Bridge.GuardPorts(ctx, slices.Compact(ports)); err != nil {
		return fmt.Errorf("keep containers from the ports of nodes: %w", err)
	}
	return nil
}

// syncNetworks tells where tasks on other hosts are: the members that changed where that is enough.
func (p *Plane) syncNetworks(ctx context.Context, changes directory.Changes, on concerned) error {
	var errs []error
	for id := range changes.Networks {
		p.nameNetwork(id)
		err := p.deps.Fabric.Sync(ctx, id, endpoints(p.deps.Directory.Remote(id)))
		on.note(id, err)
		errs = append(errs, err)
	}
	for id, members := range changes.Members {
		if changes.Networks[id] {
			continue
		}
		there, gone := p.deps.Directory.RemoteOf(id, members)
		err := p.deps.Fabric.Update(ctx, id, endpoints(there), gone)
		if err != nil {
			changes.Networks[id] = true // When it is tried again, all is told.
			errs = append(errs, err)
		}
		on.note(id, err)
	}
	return errors.Join(errs...)
}

// spacesAtOnce is how many namespaces are written at a time: the kernel has no lock that they share.
const spacesAtOnce = 8

// followAll brings the tasks' service addresses up to date.
func (p *Plane) followAll(ctx context.Context, tasks []*attached, d difference, on concerned) error {
	// Tasks on the same networks share a table. What changes while it is written is written in the next round.
	tables := map[string]vip.Table{}
	errs := make([]error, len(tasks))
	var g errgroup.Group
	g.SetLimit(spacesAtOnce)
	for i, t := range tasks {
		write := p.follow(t, d, tables)
		g.Go(func() error {
			errs[i] = write(ctx)
			return nil
		})
	}
	_ = g.Wait()
	for id := range d.networks {
		on.note(id, nil)
	}
	for i, t := range tasks {
		if errs[i] == nil {
			t.failures = 0
			continue
		}
		if t.failures++; t.failures == ownTrouble+1 {
			p.deps.Log.Error("a task's service addresses cannot be kept up to date: it may reach tasks that have stopped; it is tried again", "task", t.TaskID, "err", errs[i])
		}
		for _, o := range t.Overlays {
			on.note(o.Network.GetId(), errs[i])
		}
		if t.failures > ownTrouble {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// troubled reports whether there are tasks whose namespaces could not be brought up to date. The caller has the turn.
func (p *Plane) troubled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tasks {
		if t.failures > 0 && t.behind.Load() {
			return true
		}
	}
	return false
}

// follow returns what brings a task's service addresses up to date: what changed, where that is enough.
func (p *Plane) follow(t *attached, d difference, tables map[string]vip.Table) func(context.Context) error {
	if !t.behind.Load() && !t.overlapping() {
		var (
			changed vip.Table
			gone    []netip.Addr
		)
		for _, o := range t.Overlays {
			changed.Services = append(changed.Services, d.services[o.Network.GetId()]...)
			gone = append(gone, d.unused[o.Network.GetId()]...)
		}
		if len(changed.Services)+len(gone) == 0 {
			return func(context.Context) error { return nil }
		}
		return func(ctx context.Context) error { return p.update(ctx, t, changed, gone) }
	}
	table, ok := tables[t.networks()]
	if !ok {
		table = p.table(t)
		tables[t.networks()] = table
	}
	return func(ctx context.Context) error {
		return p.program(ctx, t, func() vip.Table { return table })
	}
}

func endpoints(members []directory.Member) []fabric.Endpoint {
	out := make([]fabric.Endpoint, 0, len(members))
	for _, m := range members {
		out = append(out, fabric.Endpoint{TaskID: m.TaskID, Addresses: m.Addresses, Host: m.Underlay})
	}
	return out
}

// difference is what changed services mean for the pieces.
type difference struct {
	// networks on which a service changed.
	networks map[string]bool
	// services that changed on each and have virtual addresses there, and such addresses that are no service's any more.
	services map[string][]vip.Service
	unused   map[string][]netip.Addr
	// gone are the addresses on each that no task has any more.
	gone map[string][]netip.Addr
	// meshed: a service that publishes ports on all nodes is among them.
	meshed bool
	// ended are tasks that are no more.
	ended []string
}

// difference compares services with what they were, and tells their names.
func (p *Plane) difference(changes directory.Changes) difference {
	d := difference{
		networks: map[string]bool{}, gone: map[string][]netip.Addr{},
		services: map[string][]vip.Service{}, unused: map[string][]netip.Addr{},
	}
	for id := range changes.Services {
		was := p.seen[id]
		now, ok := p.deps.Directory.Service(id)
		if ok {
			p.seen[id] = now
		} else {
			delete(p.seen, id)
		}
		d.meshed = d.meshed || was.Meshed() || now.Meshed() || p.sentTo(was)
		touched := slices.Concat(was.Networks(), now.Networks())
		slices.Sort(touched)
		for _, network := range slices.Compact(touched) {
			d.networks[network] = true
			p.nameService(network, now)
			if len(now.VIPs[network]) > 0 {
				d.services[network] = append(d.services[network], addresses(now, network))
			}
			for _, prefix := range was.VIPs[network] {
				if !slices.Contains(now.VIPs[network], prefix) {
					d.unused[network] = append(d.unused[network], prefix.Addr())
				}
			}
		}
		d.leave(was, now)
	}
	return d
}

// sentTo reports whether the mesh was told of a task of the service, though it may publish nothing any more.
func (p *Plane) sentTo(s directory.Service) bool {
	return slices.ContainsFunc(s.Tasks, func(b directory.Backend) bool { return len(p.local[b.GetTaskId()]) > 0 })
}

// leave notes the tasks that a service has no more.
func (d *difference) leave(was, now directory.Service) {
	has := make(map[string]bool, len(now.Tasks))
	for _, b := range now.Tasks {
		has[b.GetTaskId()] = true
	}
	for _, b := range was.Tasks {
		if has[b.GetTaskId()] {
			continue
		}
		d.ended = append(d.ended, b.GetTaskId())
		for network, addresses := range b.Addresses {
			d.gone[network] = append(d.gone[network], addresses...)
		}
	}
}

// tasksOn lists the tasks that a change concerns, and those that an earlier one has not reached.
func (p *Plane) tasksOn(d difference) []*attached {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*attached
	for _, t := range p.tasks {
		if t.behind.Load() || t.on(d.networks) {
			out = append(out, t)
		}
	}
	return out
}

// addresses are a service's on a network, with the backends that may get new connections there.
func addresses(s directory.Service, network string) vip.Service {
	var out vip.Service
	for _, prefix := range s.VIPs[network] {
		out.VIPs = append(out.VIPs, prefix.Addr())
	}
	for _, b := range s.Backends {
		out.Backends = append(out.Backends, b.Addresses[network]...)
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
			service := addresses(s, network)
			service.VIPs = slices.DeleteFunc(service.VIPs, func(vip netip.Addr) bool { return taken[vip] })
			for _, vip := range service.VIPs {
				taken[vip] = true
			}
			out.Services = append(out.Services, service)
		}
	}
	return out
}

// reset has the task's connections cut that are to backends that are no more.
func (p *Plane) reset(t *attached, gone map[string][]netip.Addr) {
	var all []netip.Addr
	for _, o := range t.Overlays {
		all = append(all, gone[o.Network.GetId()]...)
	}
	if len(all) == 0 {
		return
	}
	p.cuts = append(p.cuts, func(ctx context.Context) error {
		if !p.attached(t) {
			return nil
		}
		// Without the task's turn: what changes meanwhile does not wait.
		err := p.deps.Tables.Reset(ctx, t.Result.Netns, all)
		if err == nil || !p.attached(t) {
			return nil
		}
		return fmt.Errorf("task %s: %w", t.TaskID, err)
	})
}
