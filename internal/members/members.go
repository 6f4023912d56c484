// Package members holds what a node knows about the members of the cluster without asking a
// manager: the public keys that each member may use now. In the session of a node, a manager sends
// one swarmv1.Peering for each member, which has the keys. The worker stores them for the next run
// of the daemon. Code that accepts data from another node asks this package: the blob server about
// its clients, and gossip about the senders of packets. A manager does not use it to check
// connections, because it has the rows of all nodes. The package does no I/O and runs no goroutine.
package members

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
)

// Members is the list of members and their keys. New makes it. It is safe for concurrent use.
type Members struct {
	mu      sync.RWMutex // guards keys and changed
	keys    map[string][][]byte
	changed broadcast.Signal // sent at every change
}

// New makes an empty list, which means that no manager has sent the members yet.
func New() *Members {
	return &Members{keys: map[string][][]byte{}}
}

// Apply applies the peerings among the changes of the topology of a worker
// (worker.Deps.OnTopology).
func (m *Members) Apply(changes []*swarmv1.AssignmentChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	modified := false
	for _, c := range changes {
		if p := c.GetPut().GetPeering(); p != nil {
			if was, ok := m.keys[p.GetNodeId()]; !ok || !slices.EqualFunc(was, p.GetPublicKeys(), bytes.Equal) {
				m.keys[p.GetNodeId()] = p.GetPublicKeys()
				modified = true
			}
		}
		if r := c.GetRemove(); r.GetKind() == swarmv1.AssignmentRef_PEERING {
			if _, ok := m.keys[r.GetId()]; ok {
				delete(m.keys, r.GetId())
				modified = true
			}
		}
	}
	if modified {
		m.changed.Broadcast()
	}
}

// Known reports whether the managers have sent at least one member. Before that, Holds is false for
// every node.
func (m *Members) Known() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.keys) > 0
}

// Keys returns the public keys that a node may use now, as DER-encoded SubjectPublicKeyInfo. It
// returns none for a node that is not a member. The caller must not modify them.
func (m *Members) Keys(nodeID string) [][]byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.keys[nodeID]
}

// Holds reports whether the node is a member that may use the public key.
func (m *Members) Holds(nodeID string, publicKey []byte) bool {
	return slices.ContainsFunc(m.Keys(nodeID), func(k []byte) bool { return bytes.Equal(k, publicKey) })
}

// Changed returns a channel that the next change closes. Get the channel before you read the keys.
func (m *Members) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed.Changed()
}

// NeverReported reports whether a node was admitted and has had no session since. A host with a
// join token can make any number of such nodes. Code that costs the cluster something therefore
// ignores them.
func NeverReported(st *swarmv1.NodeState) bool {
	return st.GetState() != swarmv1.NodeState_READY && st.GetSessionEpoch() == 0
}

// guestLimit is the total time for which a node counts as a guest. Guest is false for a node that
// has been up for longer.
const guestLimit = 10 * time.Minute

// Guest reports whether a node is down and has been up for less than ten minutes in total. A host
// with a join token can make any number of such nodes too. Guest is false for a node that went down
// under a build that did not record how long nodes are up.
func Guest(st *swarmv1.NodeState) bool {
	up := st.GetUp().AsDuration()
	return st.GetState() == swarmv1.NodeState_DOWN && up > 0 && up < guestLimit
}

// KeysOf returns the public keys that the row of a node allows: the key of its newest certificate,
// and the previous key. The managers delete the previous key from the row when the node opens a
// session with the newest one.
func KeysOf(n *swarmv1.Node) [][]byte {
	var out [][]byte
	for _, k := range [][]byte{n.GetPublicKey(), n.GetPreviousKey()} {
		if len(k) > 0 {
			out = append(out, k)
		}
	}
	return out
}

// Allows reports whether the row of a node allows a public key.
func Allows(n *swarmv1.Node, publicKey []byte) bool {
	return n != nil && slices.ContainsFunc(KeysOf(n), func(k []byte) bool { return bytes.Equal(k, publicKey) })
}
