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
	// minMeshPort and maxMeshPort are the range of mesh ports that differ from the published port:
	// the end of the ephemeral range, which services rarely publish. The highest free one is
	// chosen.
	minMeshPort = 49152
	maxMeshPort = 65535
)

// portClaims computes the ports of one service, and the changes of the claims of those ports that
// the mesh publishes.
//
// The mesh port is the number by which nodes know a published port between each other. It is the
// published port, unless the same number is already the mesh port for another address. The service
// claims, for every port that the mesh publishes:
//
//	port/ingress/tcp/8080             its mesh port, always without an address
//	port/ingress/tcp/8080/192.0.2.7   its published port on its address, if it names one
//
// For the second, 8080 is the published port, whatever the mesh port is. The API claims nothing for
// a port of mode=host: the planner does, for the node that it chooses for a task.
type portClaims struct {
	view    *table.View
	service string
	old     []*swarmv1.PortConfig // the ports that the service has now
	want    []*swarmv1.PortConfig // the ports of the spec
	// requested has the published ports of want, without their addresses.
	requested map[publish.Key]bool
	// kept has the claims that the service holds after the changes: new ones and those that stay.
	kept map[publish.Key]bool
	// guarded has the claims that the changes write without a difference (see guard).
	guarded map[publish.Key]bool
	changes []*swarmv1.Change
}

// claimPorts returns the ports of a service with all published ports and mesh ports chosen, and the
// changes of claims. The changes delete the claims of ports that the service does not publish any
// more. claimPorts returns ErrAlreadyExists if another service has a port, and a PendingRemoval if
// that service is being removed.
func claimPorts(v *table.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	b := &portClaims{
		view: v, service: service, old: old,
		requested: map[publish.Key]bool{}, kept: map[publish.Key]bool{}, guarded: map[publish.Key]bool{},
	}
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
	// All ports that have a mesh port get it back before the others choose one. So the order of the
	// list does not matter.
	var fresh []*swarmv1.PortConfig
	for _, p := range b.want {
		if !publish.ByMesh(p) {
			continue
		}
		if port := b.formerMeshPort(p); port != 0 {
			b.claim(p, port)
		} else {
			fresh = append(fresh, p)
		}
	}
	for _, p := range fresh {
		port := b.chooseMeshPort(p)
		if port == 0 {
			return nil, nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("port %s is published on too many addresses: publish another port", publish.Name(p)))
		}
		b.claim(p, port)
	}
	b.release()
	return b.want, b.changes, nil
}

// publish chooses the published port if the spec leaves it open, and checks that the service may
// publish the port.
func (b *portClaims) publish(p *swarmv1.PortConfig) error {
	if p.GetPublishedPort() != 0 {
		if err := b.checkReserved(p); err != nil {
			return err
		}
		return b.conflict(p)
	}
	if !publish.ByMesh(p) {
		return nil // The node of the task chooses.
	}
	p.PublishedPort = b.choosePublished(p)
	if p.PublishedPort == 0 {
		return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", publish.FirstChosen, publish.LastChosen, p.GetTargetPort()))
	}
	b.requested[publishedKey(p)] = true
	return b.conflict(p)
}

// checkReserved returns ErrInvalidArgument for a port on which the nodes themselves answer, because
// no request would reach the service. It accepts a port that the service has already.
func (b *portClaims) checkReserved(p *swarmv1.PortConfig) error {
	if slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return publish.Same(o, p) }) {
		return nil
	}
	port, proto := p.GetPublishedPort(), p.GetProtocol()
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

// choosePublished returns the port that was chosen before for the same target port, or else the
// lowest that is free. It returns 0 if none is free.
func (b *portClaims) choosePublished(p *swarmv1.PortConfig) uint32 {
	for _, o := range b.old {
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && publish.ByMesh(o) && !b.requested[publishedKey(o)] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(publish.FirstChosen); port <= publish.LastChosen; port++ {
		candidate := &swarmv1.PortConfig{Protocol: p.GetProtocol(), PublishedPort: port}
		key := publishedKey(candidate)
		if !b.requested[key] && !b.claimedByAny(key) && b.conflict(candidate) == nil {
			return port
		}
	}
	return 0
}

// claimedByAny reports whether any service, this one included, has a claim of the port: without an
// address or with one.
func (b *portClaims) claimedByAny(key publish.Key) bool {
	if _, ok := b.view.Claims.Get(key.String()); ok {
		return true
	}
	for range b.view.Claims.Prefix(key.AddressPrefix()) {
		return true
	}
	return false
}

// conflict returns an error if another service has a port that one host cannot serve beside p.
//
// conflict does not compare a port that the service already has (had) with ports of the other mode.
// There, both services may have the port already: a service of mode=host has no claim until the
// planner places a task, and until then another service can publish the port by the mesh. An update
// that does not change the port must not fail because of that.
func (b *portClaims) conflict(p *swarmv1.PortConfig) error {
	had := slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return publish.ByMesh(o) == publish.ByMesh(p) && publish.Same(o, p) })
	var owner string
	switch {
	case publish.ByMesh(p):
		owner = b.meshOwner(p)
		if owner == "" && !had {
			owner = b.hostOwner(p)
		}
	case !had:
		owner = b.meshOwner(p)
	}
	if owner == "" {
		return nil
	}
	return b.taken(p, owner)
}

// meshOwner returns the other service whose mesh port one host cannot serve beside p, or "".
func (b *portClaims) meshOwner(p *swarmv1.PortConfig) string {
	key := publishedKey(p)
	want := key.At(publish.Address(p))
	onAddresses := map[string]bool{} // services that publish the port on single addresses
	for c := range b.view.Claims.Prefix(key.AddressPrefix()) {
		onAddresses[c.GetOwner()] = true
		other, ok := publish.ParseKey(c.GetKey())
		if ok && c.GetOwner() != b.service && want.Conflicts(other) {
			return c.GetOwner()
		}
	}
	// The claim without an address is that of a mesh port. Its owner publishes the port on every
	// address, unless it has claims of the port on single addresses, which were compared above.
	if c, ok := b.view.Claims.Get(key.String()); ok && c.GetOwner() != b.service && !onAddresses[c.GetOwner()] {
		return c.GetOwner()
	}
	return ""
}

// hostOwner returns the other service that has a task which publishes the port on its node, or "".
// The planner makes these claims, and their owners are tasks.
func (b *portClaims) hostOwner(p *swarmv1.PortConfig) string {
	want := publishedKey(p).At(publish.Address(p))
	for c := range b.view.Claims.Prefix(publish.KeyPrefix) {
		other, ok := publish.ParseKey(c.GetKey())
		if !ok || !want.Conflicts(other) {
			continue
		}
		if t, ok := b.view.Tasks.Get(c.GetOwner()); ok && t.GetServiceId() != b.service {
			return t.GetServiceId()
		}
	}
	return ""
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

// formerMeshPort returns the mesh port that the service has for the port now, or 0 if it has none.
func (b *portClaims) formerMeshPort(p *swarmv1.PortConfig) uint32 {
	for _, o := range b.old {
		if !publish.ByMesh(o) || !publish.Same(o, p) {
			continue
		}
		key := publish.MeshKey(o.GetProtocol(), meshPort(o))
		if b.owns(key) && !b.kept[key] {
			return meshPort(o)
		}
	}
	return 0
}

// chooseMeshPort returns a mesh port for the port: the published port, or the highest free one if
// the published port is the mesh port for another address. It returns 0 if none is free.
func (b *portClaims) chooseMeshPort(p *swarmv1.PortConfig) uint32 {
	key := publishedKey(p)
	c, claimed := b.view.Claims.Get(key.String())
	if claimed && !b.kept[key] {
		b.guard(key, c)
	}
	if !b.kept[key] && (!claimed || b.owns(key)) {
		return p.GetPublishedPort()
	}
	for port := uint32(maxMeshPort); port >= minMeshPort; port-- {
		key := publish.MeshKey(p.GetProtocol(), port)
		if !b.kept[key] && !b.requested[key] && !b.claimedByAny(key) {
			return port
		}
	}
	return 0
}

// guard writes the claim of a mesh port without a difference, if that was not done yet. Services
// that publish one port on different addresses all write this claim when they choose a mesh port,
// and so does a service that changes from one address to every address. If two do so at the same
// moment, the store rejects one of the two commits, and its changes are made again.
func (b *portClaims) guard(key publish.Key, c *swarmv1.Claim) {
	if !b.guarded[key] {
		b.guarded[key] = true
		b.changes = append(b.changes, table.Update(c.CloneVT()))
	}
}

// claim gives the port its mesh port, and makes the claims of both.
func (b *portClaims) claim(p *swarmv1.PortConfig, port uint32) {
	if port != p.GetPublishedPort() {
		p.MeshPort = port
	}
	b.keep(publish.MeshKey(p.GetProtocol(), port))
	if a := publish.Address(p); a.IsValid() {
		b.keep(publishedKey(p).At(a))
	}
}

// keep makes sure that the service has a claim: it creates the claim, or leaves it.
func (b *portClaims) keep(key publish.Key) {
	if _, ok := b.view.Claims.Get(key.String()); !ok && !b.kept[key] {
		b.changes = append(b.changes, table.Create(&swarmv1.Claim{Key: key.String(), Owner: b.service}))
	}
	b.kept[key] = true
}

// owns reports whether the service has the claim now.
func (b *portClaims) owns(key publish.Key) bool {
	c, ok := b.view.Claims.Get(key.String())
	return ok && c.GetOwner() == b.service
}

// release deletes the claims of the old ports that are not kept.
func (b *portClaims) release() {
	released := map[publish.Key]bool{} // A mesh port without an address has only one key.
	for _, o := range b.old {
		if !publish.ByMesh(o) {
			continue
		}
		for _, key := range []publish.Key{publish.MeshKey(o.GetProtocol(), meshPort(o)), publishedKey(o).At(publish.Address(o))} {
			if c, _ := b.view.Claims.Get(key.String()); b.owns(key) && !b.kept[key] && !released[key] {
				released[key] = true
				b.changes = append(b.changes, table.Delete(c))
			}
		}
	}
}

// publishedKey returns the key of the published port without its address.
func publishedKey(p *swarmv1.PortConfig) publish.Key {
	return publish.MeshKey(p.GetProtocol(), p.GetPublishedPort())
}

// meshPort returns the mesh port of a port that the service has: the field is 0 if the mesh port is
// the published port.
func meshPort(p *swarmv1.PortConfig) uint32 { return cmp.Or(p.GetMeshPort(), p.GetPublishedPort()) }
