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
// published port, unless the same number is already the mesh port for another address. If two
// services publish 8080 on one address each, the second one gets another mesh port, and they claim:
//
//	port/ingress/tcp/8080              the mesh port of the first service
//	port/ingress/tcp/8080/192.0.2.7    the published port of the first service on its address
//	port/ingress/tcp/65535             the mesh port of the second service
//	port/ingress/tcp/8080/192.0.2.8    the published port of the second service on its address
//
// A service that publishes 8080 on every address has only the claim of the mesh port. The API
// claims nothing for a port of mode=host: the planner does, for the node that it chooses for a
// task.
type portClaims struct {
	view    *table.View
	service string
	old     []*swarmv1.PortConfig // the ports that the service has now

	// want are the ports of the spec. The method complete adds the published ports that the spec
	// leaves open, and the method claim adds the mesh ports.
	want []*swarmv1.PortConfig
	// requested has the published ports of want, without their addresses.
	requested map[publish.Key]bool
	// kept has the claims that the service holds after the changes: new ones and those that stay.
	kept    map[publish.Key]bool
	guarded map[publish.Key]bool // the claims that guard has written
	changes []*swarmv1.Change
}

// claimPorts returns the ports of a service with all published ports and mesh ports chosen, and the
// changes of claims. The changes delete the claims of ports that the service does not publish any
// more. claimPorts returns ErrAlreadyExists if another service has a port, and a PendingRemoval if
// that service is being removed.
func claimPorts(v *table.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	pc := &portClaims{
		view: v, service: service, old: old,
		requested: map[publish.Key]bool{}, kept: map[publish.Key]bool{}, guarded: map[publish.Key]bool{},
	}
	for _, p := range want {
		p = p.CloneVT()
		p.MeshPort = 0
		pc.want = append(pc.want, p)
		if p.GetPublishedPort() != 0 {
			pc.requested[publishedKey(p)] = true
		}
	}
	for _, p := range pc.want {
		if err := pc.complete(p); err != nil {
			return nil, nil, err
		}
	}
	// Ports that had a mesh port get the same one, before the others choose one. So the order of
	// the list does not matter.
	var fresh []*swarmv1.PortConfig
	for _, p := range pc.want {
		if !publish.ByMesh(p) {
			continue
		}
		if port := pc.formerMeshPort(p); port != 0 {
			pc.claim(p, port)
		} else {
			fresh = append(fresh, p)
		}
	}
	for _, p := range fresh {
		port := pc.chooseMeshPort(p)
		if port == 0 {
			return nil, nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("port %s is published on too many addresses: publish another port", publish.Name(p)))
		}
		pc.claim(p, port)
	}
	pc.release()
	return pc.want, pc.changes, nil
}

// complete chooses the published port if the spec leaves it open, and checks that the service may
// publish the port.
func (pc *portClaims) complete(p *swarmv1.PortConfig) error {
	if p.GetPublishedPort() != 0 {
		if err := pc.checkReserved(p); err != nil {
			return err
		}
		return pc.conflict(p)
	}
	if !publish.ByMesh(p) {
		return nil // The node of the task chooses.
	}
	p.PublishedPort = pc.choosePublished(p)
	if p.PublishedPort == 0 {
		return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", publish.FirstChosen, publish.LastChosen, p.GetTargetPort()))
	}
	pc.requested[publishedKey(p)] = true
	return pc.conflict(p)
}

// checkReserved returns ErrInvalidArgument for a port on which the nodes themselves answer, because
// no request would reach the service. It accepts a port that the service has already.
func (pc *portClaims) checkReserved(p *swarmv1.PortConfig) error {
	if slices.ContainsFunc(pc.old, func(o *swarmv1.PortConfig) bool { return publish.Same(o, p) }) {
		return nil
	}
	port, proto := p.GetPublishedPort(), p.GetProtocol()
	network, what := pc.view.Cluster().GetSpec().GetNetwork(), ""
	switch {
	case proto == swarmv1.PortConfig_SCTP:
	case port == cmp.Or(network.GetGossipPort(), spec.DefaultGossipPort):
		what = "swarm's gossip"
	case proto == swarmv1.PortConfig_UDP && port == cmp.Or(network.GetDataPathPort(), spec.DefaultDataPathPort):
		what = "swarm's networks between nodes"
	case proto == swarmv1.PortConfig_TCP:
		for n := range pc.view.Nodes.All() {
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
func (pc *portClaims) choosePublished(p *swarmv1.PortConfig) uint32 {
	for _, o := range pc.old {
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && publish.ByMesh(o) && !pc.requested[publishedKey(o)] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(publish.FirstChosen); port <= publish.LastChosen; port++ {
		candidate := &swarmv1.PortConfig{Protocol: p.GetProtocol(), PublishedPort: port}
		key := publishedKey(candidate)
		if !pc.requested[key] && !pc.claimedByAny(key) && pc.conflict(candidate) == nil {
			return port
		}
	}
	return 0
}

// claimedByAny reports whether any service, this one included, has a claim of the port: without an
// address or with one.
func (pc *portClaims) claimedByAny(key publish.Key) bool {
	if _, ok := pc.view.Claims.Get(key.String()); ok {
		return true
	}
	for range pc.view.Claims.Prefix(key.AddressPrefix()) {
		return true
	}
	return false
}

// conflict returns an error if another service has a port that one host cannot serve beside p.
//
// If the service has p already, conflict does not compare p with ports of the other mode (mesh or
// host), because an update that does not change p must not fail. Two services can have the same
// port in different modes: a service of mode=host has no claim until the planner places a task, and
// until then the API lets another service publish the port by the mesh.
func (pc *portClaims) conflict(p *swarmv1.PortConfig) error {
	had := slices.ContainsFunc(pc.old, func(o *swarmv1.PortConfig) bool { return publish.ByMesh(o) == publish.ByMesh(p) && publish.Same(o, p) })
	var owner string
	switch {
	case publish.ByMesh(p):
		owner = pc.meshOwner(p)
		if owner == "" && !had {
			owner = pc.hostOwner(p)
		}
	case !had:
		owner = pc.meshOwner(p)
	}
	if owner == "" {
		return nil
	}
	return pc.taken(p, owner)
}

// meshOwner returns the other service whose mesh port one host cannot serve beside p, or "".
func (pc *portClaims) meshOwner(p *swarmv1.PortConfig) string {
	key := publishedKey(p)
	want := key.At(publish.Address(p))
	onAddresses := map[string]bool{} // services that publish the port on single addresses
	for c := range pc.view.Claims.Prefix(key.AddressPrefix()) {
		onAddresses[c.GetOwner()] = true
		other, ok := publish.ParseKey(c.GetKey())
		if ok && c.GetOwner() != pc.service && want.Conflicts(other) {
			return c.GetOwner()
		}
	}
	// A claim without an address belongs to a mesh port. If its owner has no claim of the port on a
	// single address, the owner publishes the port on every address. (Claims on single addresses
	// were compared above.)
	if c, ok := pc.view.Claims.Get(key.String()); ok && c.GetOwner() != pc.service && !onAddresses[c.GetOwner()] {
		return c.GetOwner()
	}
	return ""
}

// hostOwner returns the other service that has a task which publishes the port on its node, or "".
// The planner makes these claims, and their owners are tasks.
func (pc *portClaims) hostOwner(p *swarmv1.PortConfig) string {
	want := publishedKey(p).At(publish.Address(p))
	for c := range pc.view.Claims.Prefix(publish.KeyPrefix) {
		other, ok := publish.ParseKey(c.GetKey())
		if !ok || !want.Conflicts(other) {
			continue
		}
		if t, ok := pc.view.Tasks.Get(c.GetOwner()); ok && t.GetServiceId() != pc.service {
			return t.GetServiceId()
		}
	}
	return ""
}

// taken returns the error which says that owner, a service, has the port.
func (pc *portClaims) taken(p *swarmv1.PortConfig, owner string) error {
	port := "port " + publish.Name(p)
	if svc, _ := pc.view.Services.Get(owner); svc.GetPendingDelete() {
		return object.Services().PendingRemoval(fmt.Sprintf(
			"%s is published by service %s, which is still being removed: try again when its tasks have stopped", port, svc.GetName()), owner)
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("%s is already published by service %s: publish another port", port, object.ServiceName(pc.view, owner)))
}

// formerMeshPort returns the mesh port that the service has for the port now, or 0 if it has none.
func (pc *portClaims) formerMeshPort(p *swarmv1.PortConfig) uint32 {
	for _, o := range pc.old {
		if !publish.ByMesh(o) || !publish.Same(o, p) {
			continue
		}
		key := publish.MeshKey(o.GetProtocol(), meshPort(o))
		if pc.owns(key) && !pc.kept[key] {
			return meshPort(o)
		}
	}
	return 0
}

// chooseMeshPort returns a mesh port for the port: the published port, or the highest free one if
// the published port is the mesh port for another address. It returns 0 if none is free.
func (pc *portClaims) chooseMeshPort(p *swarmv1.PortConfig) uint32 {
	key := publishedKey(p)
	c, claimed := pc.view.Claims.Get(key.String())
	if claimed && !pc.kept[key] {
		pc.guard(key, c)
	}
	if !pc.kept[key] && (!claimed || pc.owns(key)) {
		return p.GetPublishedPort()
	}
	for port := uint32(maxMeshPort); port >= minMeshPort; port-- {
		key := publish.MeshKey(p.GetProtocol(), port)
		if !pc.kept[key] && !pc.requested[key] && !pc.claimedByAny(key) {
			return port
		}
	}
	return 0
}

// guard writes the claim of a mesh port unchanged, once. The write is a lock: it raises the version
// of the claim, and needs the version that was read. If two services choose a mesh port for one
// published port at the same moment, both write this claim, and the store rejects the second group.
// That service then chooses again, from the newest view. The services may publish the port on
// different addresses, or one of them may change from one address to every address.
func (pc *portClaims) guard(key publish.Key, c *swarmv1.Claim) {
	if !pc.guarded[key] {
		pc.guarded[key] = true
		pc.changes = append(pc.changes, table.Update(c.CloneVT()))
	}
}

// claim gives the port its mesh port, and makes the claims of both.
func (pc *portClaims) claim(p *swarmv1.PortConfig, port uint32) {
	if port != p.GetPublishedPort() {
		p.MeshPort = port
	}
	pc.keep(publish.MeshKey(p.GetProtocol(), port))
	if a := publish.Address(p); a.IsValid() {
		pc.keep(publishedKey(p).At(a))
	}
}

// keep makes sure that the service has a claim: it creates the claim, or leaves it.
func (pc *portClaims) keep(key publish.Key) {
	if _, ok := pc.view.Claims.Get(key.String()); !ok && !pc.kept[key] {
		pc.changes = append(pc.changes, table.Create(&swarmv1.Claim{Key: key.String(), Owner: pc.service}))
	}
	pc.kept[key] = true
}

// owns reports whether the service has the claim now.
func (pc *portClaims) owns(key publish.Key) bool {
	c, ok := pc.view.Claims.Get(key.String())
	return ok && c.GetOwner() == pc.service
}

// release deletes the claims of the old ports that are not kept.
func (pc *portClaims) release() {
	// If a port has no address and its mesh port is the published port, both its keys are the same.
	released := map[publish.Key]bool{}
	for _, o := range pc.old {
		if !publish.ByMesh(o) {
			continue
		}
		for _, key := range []publish.Key{publish.MeshKey(o.GetProtocol(), meshPort(o)), publishedKey(o).At(publish.Address(o))} {
			if c, _ := pc.view.Claims.Get(key.String()); pc.owns(key) && !pc.kept[key] && !released[key] {
				released[key] = true
				pc.changes = append(pc.changes, table.Delete(c))
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
