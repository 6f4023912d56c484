//go:build linux

package gossip

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"maps"
	"net/netip"

	"swarm/overlay/gossip/envelope"
	swarmv1 "swarm/proto/swarm/v1"
)

// Peer is a member as the managers tell of it.
type Peer struct {
	ID string
	// Addr is where it is reached, and Port its cluster port.
	Addr netip.Addr
	Port uint16
	// DataAddr is where it takes packets of overlay networks.
	DataAddr netip.Addr
	keys     []*ecdsa.PublicKey
}

// roster is the managers' list of all members. It is immutable.
type roster struct {
	// told: the managers have told of members. It stays so.
	told  bool
	peers map[string]Peer
	addrs map[netip.Addr]bool
}

// trust gives the keys of a node.
func (r *roster) trust(id string) (t envelope.Trust, known bool) {
	if !r.told {
		return envelope.Trust{Blind: true}, true
	}
	p, known := r.peers[id]
	return envelope.Trust{Keys: p.keys}, known
}

// places refuses an address of a node that is not the one that the managers tell.
func (r *roster) places(id string, at netip.Addr) error {
	if p, known := r.peers[id]; known && p.Addr != at {
		return fmt.Errorf("it is at %s by what managers tell, and not at %s", p.Addr, at)
	}
	return nil
}

// Apply takes over what the managers tell of the members. The first call lists them all. From then
// on nobody else is listened to, and nobody is believed whose signature is not that of the key
// which the managers name. Changes of other objects are passed over.
func (g *Gossip) Apply(changes []*swarmv1.AssignmentChange) {
	next := &roster{told: true, peers: maps.Clone(g.roster.Load().peers), addrs: map[netip.Addr]bool{}}
	if next.peers == nil {
		next.peers = map[string]Peer{}
	}
	changed := false
	for _, c := range changes {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Put:
			if p := c.Put.GetPeering(); p != nil {
				next.peers[p.GetNodeId()] = g.peer(p)
				changed = true
			}
		case *swarmv1.AssignmentChange_Remove:
			if c.Remove.GetKind() == swarmv1.AssignmentRef_PEERING {
				delete(next.peers, c.Remove.GetId())
				changed = true
			}
		}
	}
	if !changed {
		return
	}
	for _, p := range next.peers {
		next.addrs[p.Addr] = true
	}
	g.roster.Store(next)
	g.opener.Forget(func(id string) bool { _, ok := next.peers[id]; return ok })
	g.judge(next)
	g.chooseKey()
	wake(g.look)
}

// peer reads a peering. A key that cannot be read is left out: without any, the node is not
// believed.
func (g *Gossip) peer(p *swarmv1.Peering) Peer {
	out := Peer{ID: p.GetNodeId(), Port: uint16(p.GetPort())}
	at := p.GetAddr()
	if others := p.GetOthers(); len(others) > 0 {
		at = others[0] // Another address than that of the data path.
	}
	out.Addr, _ = netip.ParseAddr(at)
	out.DataAddr, _ = netip.ParseAddr(p.GetAddr())
	for _, der := range p.GetPublicKeys() {
		key, err := parseKey(der)
		if err != nil {
			g.deps.Log.Warn("public key of a node", "node", p.GetNodeId(), "err", err)
			continue
		}
		out.keys = append(out.keys, key)
	}
	return out
}

func parseKey(der []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*ecdsa.PublicKey); ok {
		return key, nil
	}
	return nil, fmt.Errorf("of type %T, want ECDSA", key)
}

// Peer is a member as the managers told of it.
func (g *Gossip) Peer(id string) (Peer, bool) {
	p, ok := g.roster.Load().peers[id]
	return p, ok
}

// signing is which key this node signs with.
type signing struct{ current, chosen *ecdsa.PrivateKey }

// signingKey is the key of this node's certificate; after a renewal the one before, until the
// managers have told of the new one, and so the others as well.
func (g *Gossip) signingKey() *ecdsa.PrivateKey {
	if s := g.signing.Load(); s != nil && s.current == g.deps.Key() {
		return s.chosen
	}
	return g.chooseKey()
}

func (g *Gossip) chooseKey() *ecdsa.PrivateKey {
	g.choosing.Lock()
	defer g.choosing.Unlock()
	current, before := g.deps.Key(), g.signing.Load()
	next := &signing{current, current}
	own := g.roster.Load().peers[g.self]
	if before != nil && !own.has(current) && own.has(before.chosen) {
		next.chosen = before.chosen
	}
	g.signing.Store(next)
	if before != nil && before.chosen != next.chosen {
		wake(g.say)
	}
	return next.chosen
}

func (p Peer) has(key *ecdsa.PrivateKey) bool {
	for _, k := range p.keys {
		if k.Equal(key.Public()) {
			return true
		}
	}
	return false
}

// wake signals a loop that need not know how often.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
