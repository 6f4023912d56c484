package manager

import (
	"context"
	"slices"
	"time"

	"swarm/internal/members"
	"swarm/internal/pause"
	"swarm/internal/pki"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// forgetPause is the pause between two checks for nodes to forget and for expired credentials.
const forgetPause = time.Minute

// forget is a duty of the leader. Until ctx ends, it removes nodes that were admitted but have
// never begun a session, nodes that were up only for minutes if there are many (see guests), and
// expired credentials.
//
// A node that was admitted never begins a session if its host fails after the manager has answered
// the join. If the host calls later, it is told that its node was removed, and joins again. A voter
// of Raft has joined, even if its row does not show a session.
func (m *Manager) forget(ctx context.Context) error {
	for {
		voters := make(map[string]bool)
		for _, s := range m.store.Servers() {
			voters[s.ID] = true
		}
		view, now := m.store.View(), time.Now()
		gone := append(neverJoined(view, voters, now), guests(view, voters, now)...)
		for _, g := range slices.Concat(gone, expiredCredentials(view, now)) {
			if _, _, err := m.store.CommitGroups(ctx, "forget", []*swarmv1.Group{g}); err != nil {
				return err
			}
		}
		if len(gone) > 0 { // These nodes know the gossip keys.
			if err := m.replaceGossipKey(ctx); err != nil {
				return err
			}
		}
		if err := pause.For(ctx, forgetPause); err != nil {
			return err
		}
	}
}

// neverJoined returns, for each node that was admitted but has never begun a session, the group
// that removes the node. The store rejects the group if the node joins at the same moment.
func neverJoined(v *table.View, voters map[string]bool, now time.Time) []*swarmv1.Group {
	var out []*swarmv1.Group
	for st := range v.NodeStates.All() {
		n, ok := v.Nodes.Get(st.GetNodeId())
		if ok && !voters[n.GetId()] && st.GetState() == swarmv1.NodeState_DOWN && members.NeverReported(st) &&
			now.Sub(st.GetSince().AsTime()) > ca.ForgetAfter {
			out = append(out, table.Group(table.Delete(n), table.Delete(st)))
		}
	}
	return out
}

// guests returns a group for each guest to remove. A guest is a node that was up only for minutes
// (see members.Guest) and has no volume to which a task may return. If there are more than
// ca.KeptGuests of them, guests chooses those that have been down longest, but none that went down
// less than ca.ForgetGuestAfter ago. The store rejects the group if the node returns at the same
// moment.
func guests(v *table.View, voters map[string]bool, now time.Time) []*swarmv1.Group {
	var all []*swarmv1.NodeState
	for st := range v.NodeStates.All() {
		if members.Guest(st) && !voters[st.GetNodeId()] && !hasVolume(v, st.GetNodeId()) {
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b *swarmv1.NodeState) int {
		return a.GetSince().AsTime().Compare(b.GetSince().AsTime())
	})
	var out []*swarmv1.Group
	for _, st := range all[:max(len(all)-ca.KeptGuests, 0)] {
		if n, ok := v.Nodes.Get(st.GetNodeId()); ok && now.Sub(st.GetSince().AsTime()) > ca.ForgetGuestAfter {
			out = append(out, table.Group(table.Delete(n), table.Delete(st)))
		}
	}
	return out
}

// hasVolume reports whether a user or a service has made a volume on a node.
func hasVolume(v *table.View, node string) bool {
	for row := range v.Volumes.Prefix(node + "/") {
		if row.GetAccepted() || row.GetMakerId() != "" {
			return true
		}
	}
	return false
}

// expiredCredentials returns, for each credential that expired more than pki.Backdate ago, the
// group that deletes the credential. The clock of another manager may be behind by that much.
// Without the row, that manager would tell the holder that the credential was revoked.
func expiredCredentials(v *table.View, now time.Time) []*swarmv1.Group {
	var out []*swarmv1.Group
	for c := range v.Credentials.All() {
		if now.Sub(c.GetUntil().AsTime()) > pki.Backdate {
			out = append(out, table.Group(table.Delete(c)))
		}
	}
	return out
}
