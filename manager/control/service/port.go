package service

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/internal/publish"
	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// Ports that are chosen come from here, as in Docker.
	firstChosenPort = 30000
	lastChosenPort  = 32767
	// Numbers between nodes come from here, the last first: nobody publishes what programs get for connections of theirs.
	firstMeshPort = 49152
	lastMeshPort  = 65535
)

// portClaims are made for a service. A claim of the mesh is "port/ingress/tcp/8080": of the number between nodes, which is the
// published one but where the port is on one address and another service has it on another; and, on one address,
// "port/ingress/tcp/8080/192.0.2.7" besides. The planner claims ports of mode=host for the node that it chooses:
// "port/<node>/tcp/8080", or with the address at its end.
type portClaims struct {
	view    *raftstore.View
	service string
	old     []*swarmv1.PortConfig
	want    []*swarmv1.PortConfig
	asked   map[publish.Key]bool // published by the service
	keep    map[publish.Key]bool // claims that the service has or makes
	changes []*swarmv1.Change
}

// claimPorts chooses the ports that the mesh is to publish and left open, and makes the claims that keep each of them
// exclusive; claims of ports that the service no longer publishes are given back.
func claimPorts(v *raftstore.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	b := &portClaims{view: v, service: service, old: old, asked: map[publish.Key]bool{}, keep: map[publish.Key]bool{}}
	for _, p := range want {
		p = p.CloneVT()
		p.MeshPort = 0
		b.want = append(b.want, p)
		if p.GetPublishedPort() != 0 {
			b.asked[meshKey(p)] = true
		}
	}
	for _, p := range b.want {
		if err := b.publish(p); err != nil {
			return nil, nil, err
		}
	}
	// Who is known by a number between nodes stays known by it.
	fresh := slices.DeleteFunc(slices.Clone(b.want), func(p *swarmv1.PortConfig) bool { return !publish.ByMesh(p) || b.known(p) })
	for _, p := range fresh {
		if err := b.number(p); err != nil {
			return nil, nil, err
		}
	}
	b.release()
	return b.want, b.changes, nil
}

// publish chooses the port where it is left open, and refuses one that somebody else has.
func (b *portClaims) publish(p *swarmv1.PortConfig) error {
	if err := b.clusters(p); err != nil {
		return err
	}
	if p.GetPublishedPort() == 0 {
		if !publish.ByMesh(p) {
			return nil
		}
		if p.PublishedPort = b.choose(p); p.PublishedPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", firstChosenPort, lastChosenPort, p.GetTargetPort()))
		}
		b.asked[meshKey(p)] = true
	}
	return b.conflict(p)
}

// clusters refuses a port on which the nodes themselves answer: no request would reach the service. What got published
// before stays.
func (b *portClaims) clusters(p *swarmv1.PortConfig) error {
	port, proto := p.GetPublishedPort(), p.GetProtocol()
	if port == 0 || slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return publish.Same(o, p) }) {
		return nil
	}
	network, what := b.view.Cluster().GetSpec().GetNetwork(), ""
	switch {
	case proto == swarmv1.PortConfig_SCTP:
	case port == cmp.Or(network.GetGossipPort(), spec.DefaultGossipPort):
		what = "swarm's gossip"
	case proto == swarmv1.PortConfig_UDP && port == cmp.Or(network.GetDataPathPort(), spec.DefaultDataPathPort):
		what = "swarm's networks between nodes"
	case proto == swarmv1.PortConfig_TCP:
		for n := range b.view.Nodes.All() {
			if n.GetPort() == port {
				what = "swarm itself"
			}
		}
	}
	if what == "" {
		return nil
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("port %s is taken on every node by %s, and no service could answer there: publish another port", publish.Name(p), what))
}

// choose keeps the port that was chosen before for the same target, and else takes the first that is free.
func (b *portClaims) choose(p *swarmv1.PortConfig) uint32 {
	for _, o := range b.old {
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && publish.ByMesh(o) && !b.asked[meshKey(o)] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(firstChosenPort); port <= lastChosenPort; port++ {
		key := publish.MeshKey(p.GetProtocol(), port)
		if q := (&swarmv1.PortConfig{Protocol: p.GetProtocol(), PublishedPort: port}); !b.asked[key] && !b.claimed(key) && b.conflict(q) == nil {
			return port
		}
	}
	return 0
}

// claimed: the number, or the port on some address, is somebody's.
func (b *portClaims) claimed(key publish.Key) bool {
	_, taken := b.view.Claims.Get(key.String())
	for range b.view.Claims.Prefix(key.AddressPrefix()) {
		taken = true
	}
	return taken
}

// conflict refuses a port that a host cannot serve beside one of another service.
func (b *portClaims) conflict(p *swarmv1.PortConfig) error {
	// What got by at the same moment is not undone by an update of something else.
	had := slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return publish.ByMesh(o) == publish.ByMesh(p) && publish.Same(o, p) })
	if had && !publish.ByMesh(p) {
		return nil
	}
	key := meshKey(p)
	want := key.At(publish.Address(p))
	limited := map[string]bool{} // services that have it on one address
	for c := range b.view.Claims.Prefix(key.AddressPrefix()) {
		other, ok := publish.ParseKey(c.GetKey())
		if limited[c.GetOwner()] = true; ok && c.GetOwner() != b.service && want.Conflicts(other) {
			return b.taken(p, c.GetOwner())
		}
	}
	if c, ok := b.view.Claims.Get(key.String()); ok && c.GetOwner() != b.service && !limited[c.GetOwner()] {
		return b.taken(p, c.GetOwner())
	}
	if had || !publish.ByMesh(p) {
		return nil
	}
	// What the planner has claimed, for a node.
	for c := range b.view.Claims.Prefix(publish.KeyPrefix) {
		other, ok := publish.ParseKey(c.GetKey())
		if !ok || !want.Conflicts(other) {
			continue
		}
		if t, ok := b.view.Tasks.Get(c.GetOwner()); ok && t.GetServiceId() != b.service {
			return b.taken(p, t.GetServiceId())
		}
	}
	return nil
}

func (b *portClaims) taken(p *swarmv1.PortConfig, owner string) error {
	port := "port " + publish.Name(p)
	if svc, _ := b.view.Services.Get(owner); svc.GetPendingDelete() {
		return object.Services().PendingRemoval(fmt.Sprintf(
			"%s is published by service %s, which is still being removed: try again when its tasks have stopped", port, svc.GetName()), owner)
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("%s is already published by service %s: publish another port", port, object.ServiceName(b.view, owner)))
}

// known keeps the number that the port has between nodes.
func (b *portClaims) known(p *swarmv1.PortConfig) bool {
	for _, o := range b.old {
		key := numberKey(o)
		if c, ok := b.view.Claims.Get(key.String()); ok && publish.ByMesh(o) && publish.Same(o, p) && c.GetOwner() == b.service && !b.keep[key] {
			p.MeshPort = o.GetMeshPort()
			b.claim(key)
			b.limit(p)
			return true
		}
	}
	return false
}

// number claims the number that nodes know the port by: the published one, or another where that is taken.
func (b *portClaims) number(p *swarmv1.PortConfig) error {
	b.limit(p)
	c, taken := b.view.Claims.Get(numberKey(p).String())
	if taken && !b.keep[numberKey(p)] {
		// Written as it is: of two services at the same moment, one may be about to publish the port on all addresses.
		b.changes = append(b.changes, raftstore.Update(c.CloneVT()))
		b.keep[numberKey(p)] = c.GetOwner() != b.service
	}
	if b.keep[numberKey(p)] {
		if p.MeshPort = b.free(p); p.MeshPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("port %s is published on too many addresses: publish another port", publish.Name(p)))
		}
	}
	b.claim(numberKey(p))
	return nil
}

func (b *portClaims) free(p *swarmv1.PortConfig) uint32 {
	for port := uint32(lastMeshPort); port >= firstMeshPort; port-- {
		if key := publish.MeshKey(p.GetProtocol(), port); !b.keep[key] && !b.asked[key] && !b.claimed(key) {
			return port
		}
	}
	return 0
}

// limit claims the port on its address.
func (b *portClaims) limit(p *swarmv1.PortConfig) {
	if a := publish.Address(p); a.IsValid() {
		b.claim(meshKey(p).At(a))
	}
}

func (b *portClaims) claim(key publish.Key) {
	if _, ok := b.view.Claims.Get(key.String()); !ok && !b.keep[key] {
		b.changes = append(b.changes, raftstore.Create(&swarmv1.Claim{Key: key.String(), Owner: b.service}))
	}
	b.keep[key] = true
}

// release gives back what the service no longer publishes.
func (b *portClaims) release() {
	for _, o := range b.old {
		if !publish.ByMesh(o) {
			continue
		}
		for _, key := range []publish.Key{numberKey(o), meshKey(o).At(publish.Address(o))} {
			if c, ok := b.view.Claims.Get(key.String()); ok && !b.keep[key] && c.GetOwner() == b.service {
				b.changes = append(b.changes, raftstore.Delete(c))
				b.keep[key] = true // Once is enough.
			}
		}
	}
}

// meshKey is the key of the published port on every address, as if no other service had it.
func meshKey(p *swarmv1.PortConfig) publish.Key {
	return publish.MeshKey(p.GetProtocol(), p.GetPublishedPort())
}

// numberKey is the key of the number that nodes know a port of the mesh by.
func numberKey(p *swarmv1.PortConfig) publish.Key {
	if p.GetMeshPort() != 0 {
		return publish.MeshKey(p.GetProtocol(), p.GetMeshPort())
	}
	return meshKey(p)
}
