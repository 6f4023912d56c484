//go:build linux

package plane

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"swarm/internal/spec"
	"swarm/overlay/directory"
	"swarm/overlay/mesh"
	swarmv1 "swarm/proto/swarm/v1"
)

// syncMesh programs the ports that are published on all nodes, and cuts connections to tasks that have ended here.
func (p *Plane) syncMesh(ctx context.Context, ended []string) error {
	ingress := p.deps.Directory.Ingress()
	self, ok := p.deps.Directory.Self()
	if ingress == nil || !ok {
		return nil // The managers will tell.
	}
	state := mesh.State{Self: meshNode(self)}
	for _, peer := range p.deps.Directory.Mesh() {
		state.Peers = append(state.Peers, meshNode(peer))
	}
	for _, id := range p.deps.Directory.Published() {
		if s, ok := p.deps.Directory.Service(id); ok {
			state.Ports = append(state.Ports, p.published(s)...)
		}
	}
	m := p.deps.Mesh(ingress.GetVni())
	conflicts, err := m.Sync(ctx, state)
	if err != nil && p.meshFailed && ctx.Err() == nil {
		conflicts = nil // Once may be chance; twice, the host cannot.
		for _, port := range state.Ports {
			conflicts = append(conflicts, mesh.Conflict{Port: port.Port, Err: err})
		}
	}
	p.meshFailed = err != nil
	p.tell(conflicts)
	var gone []netip.Addr
	for _, id := range ended {
		gone = append(gone, p.local[id]...)
		delete(p.local, id)
		delete(p.served, id)
	}
	if len(gone) > 0 {
		p.cuts = append(p.cuts, func(ctx context.Context) error { return m.Reset(ctx, gone) })
	}
	return err
}

func meshNode(p directory.Peer) mesh.Node {
	return mesh.Node{ID: p.ID, Underlay: p.Underlay, Mesh: p.Mesh, Others: p.Others}
}

// published are a service's ports that more than the tasks' own nodes answer at, with who takes new connections there.
func (p *Plane) published(s directory.Service) []mesh.Published {
	var backends, standby, served []mesh.Backend
	for _, b := range s.Tasks {
		backend := mesh.Backend{Node: b.GetNodeId()}
		if b.Local {
			if backend.Addresses = p.localAddresses(b.GetTaskId()); len(backend.Addresses) == 0 {
				continue
			}
		}
		switch {
		case b.Live:
			backends = append(backends, backend)
			if b.Local {
				p.served[b.GetTaskId()] = true
			}
		case b.Local && p.served[b.GetTaskId()]:
			served = append(served, backend)
		case b.Local:
			standby = append(standby, backend)
		}
	}
	// Who has served still does; who has not may not listen yet, and is better than nobody at all.
	if len(served)+len(backends) > 0 {
		standby = served
	}
	var out []mesh.Published
	for _, port := range s.Endpoint.GetPorts() {
		if !directory.Meshed(port) || port.GetPublishedPort() == 0 {
			continue
		}
		one := mesh.Published{
			Port:   mesh.Port{Published: uint16(port.GetPublishedPort()), Protocol: strings.ToLower(port.GetProtocol().String())},
			Target: uint16(port.GetTargetPort()), Number: uint16(port.GetMeshPort()),
			Local:    port.GetPublishMode() == swarmv1.PortConfig_LOCAL,
			Backends: backends, Standby: standby,
		}
		one.IP = spec.HostIP(port)
		out = append(out, one)
	}
	return out
}

// expect has the mesh know a task before it is a backend: other hosts may know that it is one before this host does.
func (p *Plane) expect(taskID string) (meshed bool) {
	if s, ok := p.deps.Directory.ServiceOf(taskID); !ok || !s.Meshed() {
		return false
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	p.pending = p.pending.With(directory.Changes{Peers: true})
	return true
}

// localAddresses are a task's on the node's own network. They are remembered until the managers say that it has ended: by
// then it is detached.
func (p *Plane) localAddresses(taskID string) []netip.Addr {
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
	p.local[taskID] = out
	return out
}

// Conflicts are the ports published on all nodes that this host does not answer at.
func (p *Plane) Conflicts() []mesh.Conflict {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conflicts)
}

// tell logs the ports that this host does not answer at, once each.
func (p *Plane) tell(conflicts []mesh.Conflict) {
	now := make(map[mesh.Port]string, len(conflicts))
	for _, c := range conflicts {
		now[c.Port] = c.Err.Error()
		if p.told[c.Port] != now[c.Port] && !c.AddressMissing {
			p.deps.Log.Warn("a port that is published on all nodes is not answered by its service here", "port", c.Port.String(), "err", c.Err)
		}
	}
	if maps.Equal(p.told, now) {
		return
	}
	p.told = now
	p.mu.Lock()
	p.conflicts = conflicts
	p.mu.Unlock()
	if p.deps.Conflicted != nil {
		p.deps.Conflicted()
	}
}
