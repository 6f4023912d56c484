//go:build linux

package plane

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"swarm/internal/publish"
	"swarm/overlay/directory"
	"swarm/overlay/mesh"
	swarmv1 "swarm/proto/swarm/v1"
)

// syncMesh programs the ports that are published on all nodes, and queues the reset of connections
// to tasks of this host that have ended.
func (p *Plane) syncMesh(ctx context.Context, ended []string) error {
	ingress := p.deps.Directory.Ingress()
	self, ok := p.deps.Directory.Self()
	if ingress == nil || !ok {
		return nil // The managers have not sent the network ingress or this node yet.
	}
	state := mesh.State{Self: meshNode(self)}
	for _, peer := range p.deps.Directory.MeshPeers() {
		state.Peers = append(state.Peers, meshNode(peer))
	}
	for _, id := range p.deps.Directory.Published() {
		if s, ok := p.deps.Directory.Service(id); ok {
			state.Ports = append(state.Ports, p.published(s, p.recordLocal(s))...)
		}
	}
	m := p.deps.Mesh(ingress.GetVni())
	conflicts, err := m.Sync(ctx, state)
	if err != nil && p.meshFailed && ctx.Err() == nil {
		// One failed sync may be transient. After two in a row, report that the host cannot serve
		// the ports.
		conflicts = nil
		for _, port := range state.Ports {
			conflicts = append(conflicts, mesh.Conflict{Port: port.Port, Err: err})
		}
	}
	p.meshFailed = err != nil
	p.reportConflicts(conflicts)
	var gone []netip.Addr
	for _, id := range ended {
		gone = append(gone, p.bridgeAddresses[id]...)
		delete(p.bridgeAddresses, id)
		delete(p.hasServed, id)
	}
	if len(gone) > 0 {
		p.pendingResets = append(p.pendingResets, func(ctx context.Context) error { return m.Reset(ctx, gone) })
	}
	return err
}

func meshNode(n directory.Node) mesh.Node {
	return mesh.Node{ID: n.ID, Underlay: n.Underlay, Mesh: n.Mesh, Others: n.Others}
}

// published returns the ports of a service that the mesh publishes, with their backends. local has
// the addresses of the service's local tasks, by task ID; see recordLocal.
func (p *Plane) published(s directory.Service, local map[string][]netip.Addr) []mesh.Published {
	var backends, former, unused []mesh.Backend
	for _, b := range s.Tasks {
		backend := mesh.Backend{Node: b.GetNodeId(), Addresses: local[b.GetTaskId()]}
		if b.Local && len(backend.Addresses) == 0 {
			continue // The task is not attached yet, or not any more.
		}
		switch {
		case b.Live:
			backends = append(backends, backend)
		case b.Local && p.hasServed[b.GetTaskId()]:
			former = append(former, backend)
		case b.Local:
			unused = append(unused, backend)
		}
	}
	// Prefer tasks that have already served. A new task may not be listening yet; use one only if
	// there is no other.
	standby := former
	if len(former)+len(backends) == 0 {
		standby = unused
	}
	var out []mesh.Published
	for _, port := range s.Endpoint.GetPorts() {
		if !publish.ByMesh(port) || port.GetPublishedPort() == 0 {
			continue
		}
		out = append(out, mesh.Published{
			Port: mesh.Port{
				IP: publish.Address(port), Published: uint16(port.GetPublishedPort()), Protocol: publish.Protocol(port.GetProtocol()),
			},
			Target: uint16(port.GetTargetPort()), MeshPort: uint16(port.GetMeshPort()),
			Local:    port.GetPublishMode() == swarmv1.PortConfig_LOCAL,
			Backends: backends, Standby: standby,
		})
	}
	return out
}

// announceToMesh makes the next round sync the mesh if the mesh publishes a port of the task, and
// reports whether the mesh does. The mesh must know the task as a standby before the task is ready,
// because other hosts may learn earlier than this host that the task is ready, and forward
// connections to this host.
func (p *Plane) announceToMesh(taskID string) (meshed bool) {
	if s, ok := p.deps.Directory.ServiceOf(taskID); !ok || !s.Meshed() {
		return false
	}
	p.programMu.Lock()
	defer p.programMu.Unlock()
	p.meshPending = true
	return true
}

// recordLocal returns the addresses of the service's attached local tasks on the bridge, by task
// ID. It remembers two things: in bridgeAddresses the addresses, because they are needed once more
// when a task has ended and is detached; and in hasServed the tasks that are backends.
func (p *Plane) recordLocal(s directory.Service) map[string][]netip.Addr {
	local := make(map[string][]netip.Addr)
	for _, b := range s.Tasks {
		if !b.Local {
			continue
		}
		id := b.GetTaskId()
		addresses := p.addressesOnBridge(id)
		if len(addresses) == 0 {
			continue
		}
		local[id], p.bridgeAddresses[id] = addresses, addresses
		if b.Live {
			p.hasServed[id] = true
		}
	}
	return local
}

// addressesOnBridge returns a task's addresses on the bridge, or nil if the task is not attached.
func (p *Plane) addressesOnBridge(taskID string) []netip.Addr {
	p.mu.Lock()
	t := p.tasks[taskID]
	p.mu.Unlock()
	if t == nil {
		return nil
	}
	var out []netip.Addr
	for _, prefix := range []netip.Prefix{t.Result.Address, t.Result.Address6} {
		if prefix.IsValid() {
			out = append(out, prefix.Addr())
		}
	}
	return out
}

// Conflicts returns the ports published on all nodes at which this host does not answer.
func (p *Plane) Conflicts() []mesh.Conflict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conflicts)
}

// reportConflicts logs each port at which this host does not answer, once per reason, and stores
// the list for Conflicts.
func (p *Plane) reportConflicts(conflicts []mesh.Conflict) {
	now := make(map[mesh.Port]string, len(conflicts))
	for _, c := range conflicts {
		now[c.Port] = c.Err.Error()
		if p.loggedConflicts[c.Port] != now[c.Port] && !c.AddressMissing {
			p.deps.Log.Warn("this host does not answer at a port that is published on all nodes", "port", c.Port.String(), "err", c.Err)
		}
	}
	if maps.Equal(p.loggedConflicts, now) {
		return
	}
	p.loggedConflicts = now
	p.mu.Lock()
	p.conflicts = conflicts
	p.mu.Unlock()
	if p.deps.ConflictsChanged != nil {
		p.deps.ConflictsChanged()
	}
}
