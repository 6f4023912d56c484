package control

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
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
	asked   map[string]bool // by key: published by the service
	keep    map[string]bool // claims that the service has or makes
	changes []*swarmv1.Change
}

// claimPorts chooses the ports that the mesh is to publish and left open, and makes the claims that keep each of them
// exclusive; claims of ports that the service no longer publishes are given back.
func claimPorts(v *raftstore.View, service string, old, want []*swarmv1.PortConfig) ([]*swarmv1.PortConfig, []*swarmv1.Change, error) {
	b := &portClaims{view: v, service: service, old: old, asked: map[string]bool{}, keep: map[string]bool{}}
	for _, p := range want {
		p = p.CloneVT()
		p.MeshPort = 0
		b.want = append(b.want, p)
		if p.GetPublishedPort() != 0 {
			b.asked[portKey(p.GetProtocol(), p.GetPublishedPort())] = true
		}
	}
	for _, p := range b.want {
		if err := b.publish(p); err != nil {
			return nil, nil, err
		}
	}
	// Who is known by a number between nodes stays known by it.
	fresh := slices.DeleteFunc(slices.Clone(b.want), func(p *swarmv1.PortConfig) bool { return !meshed(p) || b.known(p) })
	for _, p := range fresh {
		if err := b.number(p); err != nil {
			return nil, nil, err
		}
	}
	b.release()
	return b.want, b.changes, nil
}

func samePort(a, b *swarmv1.PortConfig) bool {
	return a.GetProtocol() == b.GetProtocol() && a.GetPublishedPort() == b.GetPublishedPort() && portAddress(a) == portAddress(b)
}

func meshed(p *swarmv1.PortConfig) bool { return p.GetPublishMode() != swarmv1.PortConfig_HOST }

// publish chooses the port where it is left open, and refuses one that somebody else has.
func (b *portClaims) publish(p *swarmv1.PortConfig) error {
	if err := b.clusters(p); err != nil {
		return err
	}
	if p.GetPublishedPort() == 0 {
		if !meshed(p) {
			return nil
		}
		if p.PublishedPort = b.choose(p); p.PublishedPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("no port from %d to %d is free for target port %d: publish a port of your choice", firstChosenPort, lastChosenPort, p.GetTargetPort()))
		}
		b.asked[portKey(p.GetProtocol(), p.GetPublishedPort())] = true
	}
	return b.conflict(p)
}

// clusters refuses a port on which the nodes themselves answer: no request would reach the service. What got published
// before stays.
func (b *portClaims) clusters(p *swarmv1.PortConfig) error {
	port, proto := p.GetPublishedPort(), p.GetProtocol()
	if port == 0 || slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return samePort(o, p) }) {
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
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("port %d/%s is taken on every node by %s, and no service could answer there: publish another port", port, strings.ToLower(proto.String()), what))
}

// choose keeps the port that was chosen before for the same target, and else takes the first that is free.
func (b *portClaims) choose(p *swarmv1.PortConfig) uint32 {
	for _, o := range b.old {
		if o.GetTargetPort() == p.GetTargetPort() && o.GetProtocol() == p.GetProtocol() && meshed(o) && !b.asked[portKey(o.GetProtocol(), o.GetPublishedPort())] {
			return o.GetPublishedPort()
		}
	}
	for port := uint32(firstChosenPort); port <= lastChosenPort; port++ {
		key := portKey(p.GetProtocol(), port)
		if q := (&swarmv1.PortConfig{Protocol: p.GetProtocol(), PublishedPort: port}); !b.asked[key] && !b.claimed(key) && b.conflict(q) == nil {
			return port
		}
	}
	return 0
}

// claimed: the number, or the port on some address, is somebody's.
func (b *portClaims) claimed(key string) bool {
	_, taken := b.view.Claims.Get(key)
	for range b.view.Claims.Prefix(key + "/") {
		taken = true
	}
	return taken
}

// conflict refuses a port that a host cannot serve beside one of another service.
func (b *portClaims) conflict(p *swarmv1.PortConfig) error {
	// What got by at the same moment is not undone by an update of something else.
	had := slices.ContainsFunc(b.old, func(o *swarmv1.PortConfig) bool { return meshed(o) == meshed(p) && samePort(o, p) })
	if had && !meshed(p) {
		return nil
	}
	key, ip := portKey(p.GetProtocol(), p.GetPublishedPort()), portAddress(p)
	limited := map[string]bool{} // services that have it on one address
	for c := range b.view.Claims.Prefix(key + "/") {
		if limited[c.GetOwner()] = true; c.GetOwner() != b.service && (ip == "" || c.GetKey() == key+"/"+ip) {
			return b.taken(p, c.GetOwner())
		}
	}
	if c, ok := b.view.Claims.Get(key); ok && c.GetOwner() != b.service && !limited[c.GetOwner()] {
		return b.taken(p, c.GetOwner())
	}
	if had || !meshed(p) {
		return nil
	}
	// What the planner has claimed, for a node.
	_, name, _ := strings.Cut(strings.TrimPrefix(key, portPrefix), "/")
	for c := range b.view.Claims.Prefix(portPrefix) {
		_, other, _ := strings.Cut(strings.TrimPrefix(c.GetKey(), portPrefix), "/")
		at, same := strings.CutPrefix(other, name)
		if !same || at != "" && (at[0] != '/' || ip != "" && at[1:] != ip) {
			continue
		}
		if t, ok := b.view.Tasks.Get(c.GetOwner()); ok && t.GetServiceId() != b.service {
			return b.taken(p, t.GetServiceId())
		}
	}
	return nil
}

func (b *portClaims) taken(p *swarmv1.PortConfig, owner string) error {
	port := fmt.Sprintf("port %d/%s", p.GetPublishedPort(), strings.ToLower(p.GetProtocol().String()))
	if svc, _ := b.view.Services.Get(owner); svc.GetPendingDelete() {
		return leaving{fmt.Sprintf("%s is published by service %s, which is still being removed: try again when its tasks have stopped", port, svc.GetName()), []string{owner}}
	}
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("%s is already published by service %s: publish another port", port, serviceName(b.view, owner)))
}

// known keeps the number that the port has between nodes.
func (b *portClaims) known(p *swarmv1.PortConfig) bool {
	for _, o := range b.old {
		key := numberKey(o)
		if c, ok := b.view.Claims.Get(key); ok && meshed(o) && samePort(o, p) && c.GetOwner() == b.service && !b.keep[key] {
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
	c, taken := b.view.Claims.Get(numberKey(p))
	if taken && !b.keep[numberKey(p)] {
		// Written as it is: of two services at the same moment, one may be about to publish the port on all addresses.
		b.changes = append(b.changes, raftstore.Update(c.CloneVT()))
		b.keep[numberKey(p)] = c.GetOwner() != b.service
	}
	if b.keep[numberKey(p)] {
		if p.MeshPort = b.free(p); p.MeshPort == 0 {
			return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("port %d/%s is published on too many addresses: publish another port", p.GetPublishedPort(), strings.ToLower(p.GetProtocol().String())))
		}
	}
	b.claim(numberKey(p))
	return nil
}

func (b *portClaims) free(p *swarmv1.PortConfig) uint32 {
	for port := uint32(lastMeshPort); port >= firstMeshPort; port-- {
		if key := portKey(p.GetProtocol(), port); !b.keep[key] && !b.asked[key] && !b.claimed(key) {
			return port
		}
	}
	return 0
}

// limit claims the port on its address.
func (b *portClaims) limit(p *swarmv1.PortConfig) {
	if ip := portAddress(p); ip != "" {
		b.claim(portKey(p.GetProtocol(), p.GetPublishedPort()) + "/" + ip)
	}
}

func (b *portClaims) claim(key string) {
	if _, ok := b.view.Claims.Get(key); !ok && !b.keep[key] {
		b.changes = append(b.changes, raftstore.Create(&swarmv1.Claim{Key: key, Owner: b.service}))
	}
	b.keep[key] = true
}

// release gives back what the service no longer publishes.
func (b *portClaims) release() {
	for _, o := range b.old {
		if !meshed(o) {
			continue
		}
		for _, key := range []string{numberKey(o), portKey(o.GetProtocol(), o.GetPublishedPort()) + "/" + portAddress(o)} {
			if c, ok := b.view.Claims.Get(key); ok && !b.keep[key] && c.GetOwner() == b.service {
				b.changes = append(b.changes, raftstore.Delete(c))
				b.keep[key] = true // Once is enough.
			}
		}
	}
}

const portPrefix = "port/"

func portKey(proto swarmv1.PortConfig_Protocol, port uint32) string {
	return fmt.Sprintf("%singress/%s/%d", portPrefix, strings.ToLower(proto.String()), port)
}

// numberKey is the key of the number that nodes know a port of the mesh by.
func numberKey(p *swarmv1.PortConfig) string {
	if p.GetMeshPort() != 0 {
		return portKey(p.GetProtocol(), p.GetMeshPort())
	}
	return portKey(p.GetProtocol(), p.GetPublishedPort())
}

// portAddress is the address that a port is limited to; "": it is on all.
func portAddress(p *swarmv1.PortConfig) string {
	if a := spec.HostIP(p); a.IsValid() {
		return a.String()
	}
	return ""
}
