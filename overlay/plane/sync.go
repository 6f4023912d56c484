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
	// retryInterval is the time between attempts to program a change that failed.
	retryInterval = time.Second
	// portRetryRounds is the number of retry intervals between attempts to bind a port that another
	// program uses.
	portRetryRounds = 10
	// maxTaskFailures is how many rounds in a row may fail because of the namespace of one task.
	// Later rounds still try to write that namespace, but do not fail if they cannot. A privileged
	// container can break its namespace, and the host must still report that the other changes are
	// programmed.
	maxTaskFailures = 3
)

// Run programs the changes of the directory until ctx ends. It waits for Restore first. When it
// returns, the data plane remains, and traffic continues.
func (p *Plane) Run(ctx context.Context) error {
	select {
	case <-p.restored: // A round before Restore would remove the tasks of an earlier process from the mesh.
	case <-ctx.Done():
		return nil
	}
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for rounds := 0; ; {
		var deadChanged <-chan struct{}
		if p.deps.Dead != nil {
			var report directory.Report
			report, deadChanged = p.deps.Dead()
			p.deps.Directory.SetDead(report)
		}
		changed := p.deps.Directory.Changed()
		if err := p.catchUp(ctx); err != nil && ctx.Err() == nil {
			p.sampledErrors.Log(slog.LevelError, err.Error(), "cannot program a change of the network: it is tried again", "err", err)
		}
		if err := p.resetConnections(ctx); err != nil && ctx.Err() == nil {
			p.sampledErrors.Log(slog.LevelError, err.Error(), "cannot reset connections to tasks that have ended: their clients wait for a timeout", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-deadChanged:
		case <-retry.C: // The next round tries failed changes again, because they are still pending.
			if rounds++; rounds%portRetryRounds == 0 {
				p.retryPorts()
			}
		}
	}
}

// retryPorts makes the next round sync the mesh if other programs used some of its ports, because
// the kernel sends no notice when a port becomes free.
func (p *Plane) retryPorts() {
	p.programMu.Lock()
	defer p.programMu.Unlock()
	p.meshPending = p.meshPending || len(p.loggedConflicts) > 0
}

// catchUp runs one round: it programs all changes that the directory has had so far. If a part
// fails, all changes stay pending for the next round.
func (p *Plane) catchUp(ctx context.Context) error {
	p.programMu.Lock()
	defer p.programMu.Unlock()
	changes := p.deps.Directory.Take()
	changes.Merge(p.pending)
	p.pending = changes
	if p.pending.Empty() && !p.meshPending && !p.hasFailedTasks() {
		return nil
	}
	began := time.Now()
	perNetwork, err := p.sync(ctx, p.pending)
	p.report(perNetwork, time.Since(began))
	if err != nil {
		return err
	}
	p.deps.Log.Debug("programmed changes of the network", "networks", len(p.pending.Networks), "endpoints", len(p.pending.Endpoints), "services", len(p.pending.Services), "took", time.Since(began))
	p.pending = directory.Changes{}
	return nil
}

// resetConnections runs the pending resets. A reset can take long if there are many connections,
// and it is not urgent. resetConnections runs them without programMu, so that changes and starting
// tasks do not wait for them.
func (p *Plane) resetConnections(ctx context.Context) error {
	p.programMu.Lock()
	resets := p.pendingResets
	p.pendingResets = nil
	p.programMu.Unlock()
	var errs []error
	for _, reset := range resets {
		errs = append(errs, reset(ctx))
	}
	return errors.Join(errs...)
}

// sync programs the changes. It tries all parts, even if one fails.
func (p *Plane) sync(ctx context.Context, changes directory.Changes) (roundErrors, error) {
	perNetwork := roundErrors{}
	errs := []error{p.syncEndpoints(ctx, changes, perNetwork)}
	if changes.Nodes {
		errs = append(errs, p.blockPeerPorts(ctx))
	}
	d := p.takeDifference(changes)
	tasks := p.affectedTasks(d)
	errs = append(errs, p.syncTasks(ctx, tasks, d, perNetwork))
	for _, t := range tasks {
		p.queueReset(t, d.goneAddresses)
	}
	// takeDifference reports a change once, because it updates lastServices. If the sync of the
	// mesh fails in that round, meshPending repeats it in the next.
	p.meshPending = p.meshPending || d.meshChanged || changes.Nodes
	if p.meshPending {
		err := p.syncMesh(ctx, d.endedTasks)
		p.meshPending = err != nil
		perNetwork.add(p.deps.Directory.Ingress().GetId(), err)
		errs = append(errs, err)
	}
	return perNetwork, errors.Join(errs...)
}

// blockPeerPorts makes the bridge block the ports on which nodes serve the cluster.
func (p *Plane) blockPeerPorts(ctx context.Context) error {
	var ports []uint16
	for _, node := range p.deps.Directory.Nodes() {
		if node.Port != 0 {
			ports = append(ports, node.Port)
		}
	}
	slices.Sort(ports)
	if err := p.deps.Bridge.BlockPeerPorts(ctx, slices.Compact(ports)); err != nil {
		return fmt.Errorf("block containers from the cluster ports of nodes: %w", err)
	}
	return nil
}

// syncEndpoints tells the fabric on which host each remote task is. For a changed network it passes
// all remote tasks. For the other networks it passes only the tasks that were added, removed or
// moved.
func (p *Plane) syncEndpoints(ctx context.Context, changes directory.Changes, perNetwork roundErrors) error {
	var errs []error
	for id := range changes.Networks {
		p.sendNetwork(id)
		err := p.deps.Fabric.Sync(ctx, id, endpoints(p.deps.Directory.Remote(id)))
		perNetwork.add(id, err)
		errs = append(errs, err)
	}
	for id, tasks := range changes.Endpoints {
		if changes.Networks[id] {
			continue
		}
		placed, gone := p.deps.Directory.RemoteOf(id, tasks)
		err := p.deps.Fabric.Update(ctx, id, endpoints(placed), gone)
		if err != nil {
			changes.Networks[id] = true // The next attempt writes the whole network.
			errs = append(errs, err)
		}
		perNetwork.add(id, err)
	}
	return errors.Join(errs...)
}

// namespaceWriters is the number of namespaces that are written in parallel. Writes to different
// namespaces do not wait for each other in the kernel.
const namespaceWriters = 8

// syncTasks programs the service addresses of the tasks.
func (p *Plane) syncTasks(ctx context.Context, tasks []*attachedTask, d difference, perNetwork roundErrors) error {
	// Tasks on the same networks share one list of services. A change that arrives during the write
	// is part of the next round.
	lists := map[string][]vip.Service{}
	errs := make([]error, len(tasks))
	var g errgroup.Group
	g.SetLimit(namespaceWriters)
	for i, t := range tasks {
		write := p.taskWrite(t, d, lists)
		g.Go(func() error {
			errs[i] = write(ctx)
			return nil
		})
	}
	_ = g.Wait()
	for id := range d.networks {
		perNetwork.add(id, nil)
	}
	for i, t := range tasks {
		if errs[i] == nil {
			t.failures = 0
			continue
		}
		if t.failures++; t.failures == maxTaskFailures+1 {
			p.deps.Log.Error("cannot update the service addresses of a task: it may connect to tasks that have stopped; the update is tried again", "task", t.TaskID, "err", errs[i])
		}
		for _, o := range t.Overlays {
			perNetwork.add(o.Network.GetId(), errs[i])
		}
		if t.failures > maxTaskFailures {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// hasFailedTasks reports whether the namespace of any task could not be written. The caller holds
// programMu.
func (p *Plane) hasFailedTasks() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tasks {
		if t.failures > 0 && t.needsFullWrite.Load() {
			return true
		}
	}
	return false
}

// taskWrite returns a function that programs a task's service addresses. The function writes only
// the differences, unless the task needs a full write. lists has the services of the tasks of this
// round that need one, by the tasks' networks; taskWrite adds to it.
func (p *Plane) taskWrite(t *attachedTask, d difference, lists map[string][]vip.Service) func(context.Context) error {
	if t.needsFullWrite.Load() || t.sharesAddresses() {
		services, ok := lists[t.networksKey()]
		if !ok {
			services = p.servicesFor(t)
			lists[t.networksKey()] = services
		}
		return func(ctx context.Context) error {
			return p.program(ctx, t, func() []vip.Service { return services })
		}
	}
	var (
		changed []vip.Service
		gone    []netip.Addr
	)
	for _, o := range t.Overlays {
		changed = append(changed, d.services[o.Network.GetId()]...)
		gone = append(gone, d.unusedVIPs[o.Network.GetId()]...)
	}
	if len(changed)+len(gone) == 0 {
		return func(context.Context) error { return nil }
	}
	return func(ctx context.Context) error { return p.update(ctx, t, changed, gone) }
}

func endpoints(all []directory.Endpoint) []fabric.Endpoint {
	out := make([]fabric.Endpoint, 0, len(all))
	for _, e := range all {
		out = append(out, fabric.Endpoint{TaskID: e.TaskID, Addresses: e.Addresses, Host: e.Underlay})
	}
	return out
}

// difference is what has changed in the services since the last round.
type difference struct {
	// networks are the networks on which a service changed.
	networks map[string]bool
	// services are, by network, the changed services with virtual addresses there. unusedVIPs are
	// the virtual addresses that no service has any more.
	services   map[string][]vip.Service
	unusedVIPs map[string][]netip.Addr
	// goneAddresses are, by network, the addresses of tasks that have ended.
	goneAddresses map[string][]netip.Addr
	// meshChanged says that a changed service publishes or published ports on all nodes.
	meshChanged bool
	// endedTasks are the IDs of tasks that have ended.
	endedTasks []string
}

// takeDifference returns the difference between lastServices and the changed services, and then
// updates lastServices. So a second call with the same changes does not find what has gone. It also
// sends the names of the changed services to the name server.
func (p *Plane) takeDifference(changes directory.Changes) difference {
	d := difference{
		networks: map[string]bool{}, goneAddresses: map[string][]netip.Addr{},
		services: map[string][]vip.Service{}, unusedVIPs: map[string][]netip.Addr{},
	}
	for id := range changes.Services {
		was := p.lastServices[id]
		now, ok := p.deps.Directory.Service(id)
		if ok {
			p.lastServices[id] = now
		} else {
			delete(p.lastServices, id)
		}
		d.meshChanged = d.meshChanged || was.Meshed() || now.Meshed() || p.meshKnows(was)
		touched := slices.Concat(was.Networks(), now.Networks())
		slices.Sort(touched)
		for _, network := range slices.Compact(touched) {
			d.networks[network] = true
			p.sendService(network, now)
			if len(now.VIPs[network]) > 0 {
				d.services[network] = append(d.services[network], addresses(now, network))
			}
			for _, prefix := range was.VIPs[network] {
				if !slices.Contains(now.VIPs[network], prefix) {
					d.unusedVIPs[network] = append(d.unusedVIPs[network], prefix.Addr())
				}
			}
		}
		d.addEnded(was, now)
	}
	return d
}

// meshKnows reports whether the mesh knows a task of the service. The mesh must then learn of each
// change of the service, even if the service no longer publishes a port.
func (p *Plane) meshKnows(s directory.Service) bool {
	return slices.ContainsFunc(s.Tasks, func(b directory.Task) bool { return len(p.bridgeAddresses[b.GetTaskId()]) > 0 })
}

// addEnded adds the tasks that the service had in the last round and does not have now.
func (d *difference) addEnded(was, now directory.Service) {
	has := make(map[string]bool, len(now.Tasks))
	for _, b := range now.Tasks {
		has[b.GetTaskId()] = true
	}
	for _, b := range was.Tasks {
		if has[b.GetTaskId()] {
			continue
		}
		d.endedTasks = append(d.endedTasks, b.GetTaskId())
		for network, addresses := range b.Addresses {
			d.goneAddresses[network] = append(d.goneAddresses[network], addresses...)
		}
	}
}

// affectedTasks returns the tasks that the changes concern, and those that need a full write.
func (p *Plane) affectedTasks(d difference) []*attachedTask {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*attachedTask
	for _, t := range p.tasks {
		if t.needsFullWrite.Load() || t.on(d.networks) {
			out = append(out, t)
		}
	}
	return out
}

// addresses returns the virtual addresses of a service on a network, and the backends for new
// connections there.
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

// servicesFor returns all services with virtual addresses on the task's networks, and their
// backends.
func (p *Plane) servicesFor(t *attachedTask) []vip.Service {
	var out []vip.Service
	taken := map[netip.Addr]bool{} // Networks with overlapping subnets may share addresses. The first network wins.
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
			out = append(out, service)
		}
	}
	return out
}

// queueReset queues the reset of the task's connections to backends that have ended.
func (p *Plane) queueReset(t *attachedTask, gone map[string][]netip.Addr) {
	var all []netip.Addr
	for _, o := range t.Overlays {
		all = append(all, gone[o.Network.GetId()]...)
	}
	if len(all) == 0 {
		return
	}
	p.pendingResets = append(p.pendingResets, func(ctx context.Context) error {
		if !p.isAttached(t) {
			return nil
		}
		// Do not hold the lock of the task, so that other changes do not wait for the reset.
		err := p.deps.Balancer.Reset(ctx, t.Result.Netns, all)
		if err == nil || !p.isAttached(t) {
			return nil
		}
		return fmt.Errorf("task %s: %w", t.TaskID, err)
	})
}
