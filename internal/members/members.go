// Package members is what a node knows of the cluster's members without asking a manager: the
// public keys that each of them may use now. Managers tell every node with the peerings of its
// session, and the worker remembers them between two runs of the daemon. Whoever accepts something
// from another node asks here: the blob server whom it serves, gossip whose packets it reads. A
// manager, which has the rows themselves, judges connections by those. No I/O, no goroutines.
package members

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
)

// Members is the list. New makes it. It is safe for concurrent use.
type Members struct {
	mu      sync.RWMutex // guards the rest
	keys    map[string][][]byte
	changed broadcast.Signal // sent at every change
}

// New makes an empty list, which says that nothing has been told yet.
func New() *Members {
	return &Members{keys: map[string][][]byte{}}
}

// Apply takes over the peerings among the changes of a worker's topology (worker.Deps.OnTopology).
func (m *Members) Apply(changes []*swarmv1.AssignmentChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	moved := false
	for _, c := range changes {
		if p := c.GetPut().GetPeering(); p != nil {
			if was, ok := m.keys[p.GetNodeId()]; !ok || !slices.EqualFunc(was, p.GetPublicKeys(), bytes.Equal) {
				m.keys[p.GetNodeId()] = p.GetPublicKeys()
				moved = true
			}
		}
		if r := c.GetRemove(); r.GetKind() == swarmv1.AssignmentRef_PEERING {
			if _, ok := m.keys[r.GetId()]; ok {
				delete(m.keys, r.GetId())
				moved = true
			}
		}
	}
	if moved {
		m.changed.Broadcast()
	}
}

// Known reports whether the managers have told of any member. Until then Holds is false for
// everybody.
func (m *Members) Known() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.keys) > 0
}

// Keys are the public keys that a node may use now, as SubjectPublicKeyInfo in DER; none for a node
// that is no member. The caller must not change them.
func (m *Members) Keys(nodeID string) [][]byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.keys[nodeID]
}

// Holds reports whether the node is a member that may use the public key.
func (m *Members) Holds(nodeID string, publicKey []byte) bool {
	return slices.ContainsFunc(m.Keys(nodeID), func(k []byte) bool { return bytes.Equal(k, publicKey) })
}

// Changed is closed by the next change. Take it before looking.
func (m *Members) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed.Changed()
}

// NeverReported reports whether a node was admitted and has had no session since. Whoever knows a
// join token can make such nodes: what costs the cluster something is for the others.
func NeverReported(st *swarmv1.NodeState) bool {
	return st.GetState() != swarmv1.NodeState_READY && st.GetSessionEpoch() == 0
}

// settledAfter is how long a node must have been up in sum to be more than a guest.
const settledAfter = 10 * time.Minute

// Guest reports whether a node is down and was up for a few minutes only in all its life. Whoever
// knows a join token can make such nodes too. It says nothing of nodes that went down under builds
// that did not note how long nodes are up.
func Guest(st *swarmv1.NodeState) bool {
	up := st.GetUp().AsDuration()
	return st.GetState() == swarmv1.NodeState_DOWN && up > 0 && up < settledAfter
}

// KeysOf are the public keys that the row of a node allows: that of its newest certificate, and the
// one before until a session with the newest has been seen.
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
