//go:build linux

package plane

import (
	"context"
	"time"

	"swarm/overlay/directory"
	"swarm/overlay/resolve"
	swarmv1 "swarm/proto/swarm/v1"
)

// nameServerTimeout limits how long Attach waits for the task's name server. The name server runs
// in the runtime process, which may be restarting.
const nameServerTimeout = 10 * time.Second

// serveNames makes the name server serve the task, and waits until it does.
func (p *Plane) serveNames(ctx context.Context, t *attachedTask) error {
	ctx, cancel := context.WithTimeout(ctx, nameServerTimeout)
	defer cancel()
	return p.deps.Names.Serve(ctx, t.resolverContainer())
}

// sendNetwork sends a network to the name server, or removes it there if the directory does not
// have it any more.
func (p *Plane) sendNetwork(id string) {
	n, ok := p.deps.Directory.Network(id)
	if !ok {
		p.deps.Names.RemoveNetwork(id)
		return
	}
	p.networkNames[id] = n.GetSpec().GetName()
	r := &swarmv1.ResolverNetwork{Id: id, Name: n.GetSpec().GetName()}
	for _, c := range n.GetIpam().GetConfigs() {
		r.Subnets = append(r.Subnets, c.GetSubnet())
	}
	p.deps.Names.SetNetwork(r)
}

// sendService sends a service's names on a network, and the tasks to which they resolve, to the
// name server. If the service has no name there any more, sendService removes it.
func (p *Plane) sendService(network string, s directory.Service) {
	backends := make([]*swarmv1.Backend, 0, len(s.Tasks))
	for _, t := range s.Tasks {
		b := t.Backend
		if b.GetReady() && !t.Live { // Its node is dead, so no name may resolve to the task.
			b = b.CloneVT()
			b.Ready = false
			for _, n := range b.Networks {
				n.Addresses = nil
			}
		}
		backends = append(backends, b)
	}
	routing := &swarmv1.Routing{ServiceId: s.ID, Name: s.Name, Endpoint: s.Endpoint}
	if aliases, ok := s.Aliases[network]; ok {
		routing.Networks = []*swarmv1.NetworkAttachment{{NetworkId: network, Aliases: aliases}}
	}
	if r := resolve.Service(network, routing, backends); r != nil {
		p.deps.Names.SetService(r)
	} else {
		p.deps.Names.RemoveService(network, s.ID)
	}
}

// resolverContainer returns the name server's settings for the task: its networks and its
// upstreams.
func (t *attachedTask) resolverContainer() *swarmv1.ResolverContainer {
	c := &swarmv1.ResolverContainer{Id: t.TaskID, Netns: t.Result.Netns, Internal: t.NoEgress, SearchFirst: t.SearchFirst}
	for _, o := range t.Overlays {
		c.NetworkIds = append(c.NetworkIds, o.Network.GetId())
	}
	for _, u := range t.Upstreams {
		c.Upstreams = append(c.Upstreams, u.String())
	}
	return c
}
