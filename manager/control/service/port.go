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
	"swarm/raftstore/table"
)

const (
	// Mesh ports that differ from the published port are chosen downwards from the top of the
	// ephemeral range, which services rarely publish.
	firstMeshPort = 49152
	lastMeshPort  = 65535
)

// portClaims makes the claims of the ports that the mesh publishes for one service.
//
// The mesh port is the number by which nodes know a published port between each other. It is the
// published port, unless the same port is also published on another address. Every published port
// has a claim of its mesh port on every address, like "port/ingress/tcp/8080". A port that is
// published on one address also has a claim like "port/ingress/tcp/8080/192.0.2.7".
//
// The planner claims the ports of mode=host, for the node that it chooses.
type portClaims struct {
	view    *table.View
	service string
	old     []*swarmv1.PortConfig
	want    []*swarmv1.PortConfig
	// requested are the ports that the service publishes, whatever their address.
	requested map[publish.Key]bool
	// held are the claims that the service keeps or makes, and those that it must not make.
	held    map[publish.Key]bool
	changes []*swarmv1.Change
}

// claimPorts returns the ports of a service, with those chosen that were left open, and the changes
// of claims. It deletes the claims of ports that the service does not publish any more. It returns
// ErrAlreadyExists if another service has a port, and a PendingRemoval if that service is being
// removed.
func claimPorts(v *table.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	b := &portClaims{view: v, service: service, old: old, requested: map[publish.Key]bool{}, held: map[publish.Key]bool{}}
	for _, p := range want {
		p = p.CloneVT()
		p.MeshPort = 0
		b.want = append(b.want, p)
		if p.GetPublishedPort() != 0 {
			b.requested[publishedKey(p)] = true
		}
	}
	for _, p := range b.want {
		if err := b.publish(p); err != nil {
			return nil, nil, err
		}
	}
	// Ports that have a mesh port keep it, whatever the order of the list. The others come after
	// them.
	fresh := slices.DeleteFunc(slices.Clone(b.want), func(p *swarmv1.PortConfig) bool { return !publish.ByMesh(p) || b.keepMeshPort(p) })
	for _, p := range fresh {
		if err := b.claimMeshPort(p); err != nil {
			return nil, nil, err
		}
	}
	b.release()
	return b.want, b.changes, nil
}

// publish chooses the port if it was left open, and refuses a port of another service.
func (b *portClaims) publish(p *swarmv1.PortConfig) error {
	if err := b.checkReserved(p); err != nil {
		return err
	}
	if p.GetPublishedPort() == 0 {
		if !publish.ByMesh(p) {
			return nil
		}
		if p.PublishedPort = b.choose(p); p.PublishedPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", publish.FirstChosen, publish.LastChosen, p.GetTargetPort()))
		}
		b.requested[publishedKey(p)] = true
	}
	return b.conflict(p)
}

// checkReserved refuses a port on which the nodes themselves answer, because no request would reach
// the service. A port that the service has published before stays.
func (b *portClaims) checkReserved(p *swarmv1.PortConfig) error {
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

// choose returns the port that was chosen before for the same target port, or else the first that
// is free. It returns 0 if none is.
func (b *portClaims) choose(p *swarmv1.PortConfig) uint32 {
	for _, o := range b.old {
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && publish.ByMesh(o) && !b.requested[publishedKey(o)] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(publish.FirstChosen); port <= publish.LastChosen; port++ {
		key := publish.MeshKey(p.GetProtocol(), port)
		if q := (&swarmv1.PortConfig{Protocol: p.GetProtocol(), PublishedPort: port}); !b.requested[key] && !b.claimed(key) && b.conflict(q) == nil {
			return port
		}
	}
	return 0
}

// claimed reports whether any service has a claim of the port, on every address or on one.
func (b *portClaims) claimed(key publish.Key) bool {
	_, taken := b.view.Claims.Get(key.String())
	for range b.view.Claims.Prefix(key.AddressPrefix()) {
		taken = true
	}
	return taken
}

// conflict refuses a port that a host cannot serve beside one of another service.
func (b *portClaims) conflict(p *swarmv1.PortConfig) error {
	// Two services may have got the port at the same moment. An update of something else must not
	// fail because of that.
	had := slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return publish.ByMesh(o) == publish.ByMesh(p) && publish.Same(o, p) })
	if had && !publish.ByMesh(p) {
		return nil
	}
	key := publishedKey(p)
	want := key.At(publish.Address(p))
	limited := map[string]bool{} // services that have the port on one address
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
	// The planner's claims for nodes. Their owners are tasks.
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

// taken returns the error which says that owner, a service, has the port.
func (b *portClaims) taken(p *swarmv1.PortConfig, owner string) error {
	port := "port " + publish.Name(p)
	if svc, _ := b.view.Services.Get(owner); svc.GetPendingDelete() {
		return object.Services().PendingRemoval(fmt.Sprintf(
			"%s is published by service %s, which is still being removed: try again when its tasks have stopped", port, svc.GetName()), owner)
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("%s is already published by service %s: publish another port", port, object.ServiceName(b.view, owner)))
}

// keepMeshPort gives the port the mesh port that it has had, and reports whether it had one.
func (b *portClaims) keepMeshPort(p *swarmv1.PortConfig) bool {
	for _, o := range b.old {
		key := meshPortKey(o)
		if c, ok := b.view.Claims.Get(key.String()); ok && publish.ByMesh(o) && publish.Same(o, p) && c.GetOwner() == b.service && !b.held[key] {
			p.MeshPort = o.GetMeshPort()
			b.claim(key)
			b.claimAddress(p)
			return true
		}
	}
	return false
}

// claimMeshPort claims a mesh port for the port: the published port, or another one if that is
// taken.
func (b *portClaims) claimMeshPort(p *swarmv1.PortConfig) error {
	b.claimAddress(p)
	c, taken := b.view.Claims.Get(meshPortKey(p).String())
	if taken && !b.held[meshPortKey(p)] {
		// Write the claim without changing it. If its service publishes the port on every address
		// at the same moment, one of the two commits fails.
		b.changes = append(b.changes, table.Update(c.CloneVT()))
		b.held[meshPortKey(p)] = c.GetOwner() != b.service
	}
	if b.held[meshPortKey(p)] {
		if p.MeshPort = b.freeMeshPort(p); p.MeshPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("port %s is published on too many addresses: publish another port", publish.Name(p)))
		}
	}
	b.claim(meshPortKey(p))
	return nil
}

// freeMeshPort returns a mesh port that no service has or publishes, or 0 if there is none.
func (b *portClaims) freeMeshPort(p *swarmv1.PortConfig) uint32 {
	for port := uint32(lastMeshPort); port >= firstMeshPort; port-- {
		if key := publish.MeshKey(p.GetProtocol(), port); !b.held[key] && !b.requested[key] && !b.claimed(key) {
			return port
		}
	}
	return 0
}

// claimAddress claims the port on its address, if it has one.
func (b *portClaims) claimAddress(p *swarmv1.PortConfig) {
	if a := publish.Address(p); a.IsValid() {
		b.claim(publishedKey(p).At(a))
	}
}

// claim creates a claim, unless the service has it.
func (b *portClaims) claim(key publish.Key) {
	if _, ok := b.view.Claims.Get(key.String()); !ok && !b.held[key] {
		b.changes = append(b.changes, table.Create(&swarmv1.Claim{Key: key.String(), Owner: b.service}))
	}
	b.held[key] = true
}

// release deletes the claims of ports that the service does not publish any more.
func (b *portClaims) release() {
	for _, o := range b.old {
		if !publish.ByMesh(o) {
			continue
		}
		for _, key := range []publish.Key{meshPortKey(o), publishedKey(o).At(publish.Address(o))} {
			if c, ok := b.view.Claims.Get(key.String()); ok && !b.held[key] && c.GetOwner() == b.service {
				b.changes = append(b.changes, table.Delete(c))
				b.held[key] = true // Delete it only once.
			}
		}
	}
}

// publishedKey returns the key of the published port on every address.
func publishedKey(p *swarmv1.PortConfig) publish.Key {
	return publish.MeshKey(p.GetProtocol(), p.GetPublishedPort())
}

// meshPortKey returns the key of the claim of the mesh port.
func meshPortKey(p *swarmv1.PortConfig) publish.Key {
	if p.GetMeshPort() != 0 {
		return publish.MeshKey(p.GetProtocol(), p.GetMeshPort())
	}
	return publishedKey(p)
}
