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

// Peer is a member as the managers describe it.
type Peer struct {
	ID string
	// Addr is the address of its cluster and gossip ports, and Port its cluster port.
	Addr netip.Addr
	Port uint16
	// DataAddr is the address to which packets of overlay networks are sent.
	DataAddr netip.Addr
	keys     []*ecdsa.PublicKey
}

// roster is the list of all members that the managers send. It is immutable.
type roster struct {
	// received is whether the managers have sent a list yet. It never becomes false again.
	received bool
	peers    map[string]Peer     // by node id
	addrs    map[netip.Addr]bool // the Addr of each peer
}

// trust returns the keys with which a node may sign. known is false if the node is no member. Until
// the managers have sent the list, every node is known and any key is accepted.
func (r *roster) trust(id string) (t envelope.Trust, known bool) {
	if !r.received {
		return envelope.Trust{AnyKey: true}, true
	}
	p, known := r.peers[id]
	return envelope.Trust{Keys: p.keys}, known
}

// checkAddr returns an error if the managers list a node at another address.
func (r *roster) checkAddr(id string, at netip.Addr) error {
	if p, known := r.peers[id]; known && p.Addr != at {
		return fmt.Errorf("the node claims the address %s, but the managers list it at %s", at, p.Addr)
	}
	return nil
}

// Apply updates the list of members from the peerings among changes, and ignores other changes. The
// first call must list all members. From then on gossip ignores every node that is not on the list,
// and every message or statement that is not signed with a key which the list names.
func (g *Gossip) Apply(changes []*swarmv1.AssignmentChange) {
	next := &roster{received: true, peers: maps.Clone(g.roster.Load().peers), addrs: map[netip.Addr]bool{}}
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
	g.applyRoster(next)
	g.chooseKey()
	wake(g.reconnectNow)
}

// peer converts a peering. It logs and leaves out a key that cannot be read; all messages of a node
// without keys are rejected.
func (g *Gossip) peer(p *swarmv1.Peering) Peer {
	out := Peer{ID: p.GetNodeId(), Port: uint16(p.GetPort())}
	at := p.GetAddr()
	if others := p.GetOthers(); len(others) > 0 {
		at = others[0] // The node has a separate address for the data path.
	}
	out.Addr, _ = netip.ParseAddr(at)
	out.DataAddr, _ = netip.ParseAddr(p.GetAddr())
	for _, der := range p.GetPublicKeys() {
		key, err := parseKey(der)
		if err != nil {
			g.deps.Log.Warn("gossip: cannot read a public key of a node, ignore the key", "node", p.GetNodeId(), "err", err)
			continue
		}
		out.keys = append(out.keys, key)
	}
	return out
}

// parseKey parses an ECDSA public key in PKIX form.
func parseKey(der []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*ecdsa.PublicKey); ok {
		return key, nil
	}
	return nil, fmt.Errorf("key of type %T, want ECDSA", key)
}

// Peer returns the member with that id as the managers describe it.
func (g *Gossip) Peer(id string) (Peer, bool) {
	p, ok := g.roster.Load().peers[id]
	return p, ok
}

// signingKeys has the key of this node's certificate, and the key that the node signs with.
type signingKeys struct{ certificate, used *ecdsa.PrivateKey }

// signingKey returns the key to sign with. It is the key of this node's certificate. After a
// renewal it is the former key, until the managers list the new one, because the other members do
// not accept the new key before.
func (g *Gossip) signingKey() *ecdsa.PrivateKey {
	if s := g.signing.Load(); s != nil && s.certificate == g.deps.Key() {
		return s.used
	}
	return g.chooseKey()
}

// chooseKey decides which key signingKey returns, and announces this node if the key has changed.
func (g *Gossip) chooseKey() *ecdsa.PrivateKey {
	g.signingMu.Lock()
	defer g.signingMu.Unlock()
	current, before := g.deps.Key(), g.signing.Load()
	next := &signingKeys{current, current}
	own := g.roster.Load().peers[g.self]
	if before != nil && !own.has(current) && own.has(before.used) {
		next.used = before.used
	}
	g.signing.Store(next)
	if before != nil && before.used != next.used {
		wake(g.announceNow)
	}
	return next.used
}

// has reports whether the managers list the public key of a private key.
func (p Peer) has(key *ecdsa.PrivateKey) bool {
	for _, k := range p.keys {
		if k.Equal(key.Public()) {
			return true
		}
	}
	return false
}

// wake sends a signal, unless a signal is pending already.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
