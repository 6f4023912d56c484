//go:build linux

package plane

import (
	"time"

	"swarm/overlay/directory"
	"swarm/overlay/resolve"
	swarmv1 "swarm/proto/swarm/v1"
)

// namesPatience is how long a task waits for its name server: the runtime, in which it runs, may just start again.
const namesPatience = 10 * time.Second

// nameNetwork tells the name server of a network, or that it is gone.
func (p *Plane) nameNetwork(id string) {
	n, ok := p.deps.Directory.Network(id)
	if !ok {
		p.deps.Names.RemoveNetwork(id)
		return
	}
	p.called[id] = n.GetSpec().GetName()
	r := &swarmv1.ResolverNetwork{Id: id, Name: n.GetSpec().GetName()}
	for _, c := range n.GetIpam().GetConfigs() {
		r.Subnets = append(r.Subnets, c.GetSubnet())
	}
	p.deps.Names.SetNetwork(r)
}

// nameService tells the name server who answers to a service's names on a network.
func (p *Plane) nameService(network string, s directory.Service) {
	backends := make([]*swarmv1.Backend, 0, len(s.Tasks))
	for _, t := range s.Tasks {
		b := t.Backend
		if b.GetReady() && !t.Live { // Its node is dead: it is no answer to any name.
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

// names are what the task may ask for.
func (t *attached) names() *swarmv1.ResolverContainer {
	c := &swarmv1.ResolverContainer{Id: t.TaskID, Netns: t.Result.Netns, Internal: t.Closed, SearchFirst: t.SearchFirst}
	for _, o := range t.Overlays {
		c.NetworkIds = append(c.NetworkIds, o.Network.GetId())
	}
	for _, u := range t.Upstreams {
		c.Upstreams = append(c.Upstreams, u.String())
	}
	return c
}
