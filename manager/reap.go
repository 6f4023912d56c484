package manager

import (
	"context"
	"slices"
	"strings"
	"time"

	"swarm/internal/ipam"
	"swarm/internal/members"
	"swarm/internal/pause"
	"swarm/internal/pki"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// keptRevisions is how many revisions of a service stay, in addition to those that are in use.
	keptRevisions = 100
	// reapBatch bounds the rows that one commit deletes.
	reapBatch = 1000
	// forgetPause is between two looks for nodes that have never joined and for expired
	// credentials.
	forgetPause = time.Minute
)

// reap deletes rows whose owner is gone, and old revisions, until ctx ends. Such rows remain when a
// leader is lost between two commits, or when two writers write at the same time. It looks when a
// term begins, when a node was removed and when a service has a new revision.
func (m *Manager) reap(ctx context.Context) error {
	view, w := m.store.Watch(table.Node, table.Revision)
	defer w.Close()
	if err := m.deleteRows(ctx, orphans(view)); err != nil {
		return err
	}
	for {
		batch, err := w.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err // keepRunning starts the duty again
		}
		for _, c := range batch.Changes {
			var changes []*swarmv1.Change
			switch rev, _ := c.New.(*swarmv1.Revision); {
			case rev != nil:
				changes = oldRevisions(batch.View, rev.GetServiceId())
			case c.Table == table.Node && c.New == nil:
				changes = orphans(batch.View)
			}
			if err := m.deleteRows(ctx, changes); err != nil {
				return err
			}
		}
	}
}

// forget removes nodes that were admitted and have never joined, because the host's join failed
// after the answer and was not tried again. Such a node that calls after all is told that it was
// removed, and joins again. A voter of Raft has joined, whatever its row says. forget also removes
// guests when there are many, and credentials that have expired.
func (m *Manager) forget(ctx context.Context) error {
	for {
		voters := make(map[string]bool)
		for _, s := range m.store.Servers() {
			voters[s.ID] = true
		}
		view, now := m.store.View(), time.Now()
		gone := append(neverJoined(view, voters, now), guests(view, voters, now)...)
		for _, g := range slices.Concat(gone, expiredCredentials(view, now)) {
			if _, _, err := m.store.CommitGroups(ctx, "reaper", []*swarmv1.Group{g}); err != nil {
				return err
			}
		}
		if len(gone) > 0 { // these nodes know the gossip keys
			if err := m.replaceGossipKey(ctx); err != nil {
				return err
			}
		}
		if err := pause.For(ctx, forgetPause); err != nil {
			return err
		}
	}
}

// neverJoined returns a group for each node to forget. The store rejects it if the node joins at
// the same moment.
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

// guests returns a group for each guest to forget: if there are more than ca.KeptGuests, those that
// have been down longest, and for more than ca.ForgetGuestAfter. The store rejects the group if the
// node returns at the same moment.
func guests(v *table.View, voters map[string]bool, now time.Time) []*swarmv1.Group {
	var all []*swarmv1.NodeState
	for st := range v.NodeStates.All() {
		if members.Guest(st) && !voters[st.GetNodeId()] {
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

// expiredCredentials returns a group for each credential that has expired. A row stays for as long
// as another manager's clock may be behind. Without the row that manager would tell the holder that
// the credential was revoked.
func expiredCredentials(v *table.View, now time.Time) []*swarmv1.Group {
	var out []*swarmv1.Group
	for c := range v.Credentials.All() {
		if now.Sub(c.GetUntil().AsTime()) > pki.Backdate {
			out = append(out, table.Group(table.Delete(c)))
		}
	}
	return out
}

// deleteRows deletes each row in its own group, so that a row that has changed meanwhile stays.
func (m *Manager) deleteRows(ctx context.Context, changes []*swarmv1.Change) error {
	for len(changes) > 0 {
		n := min(len(changes), reapBatch)
		groups := make([]*swarmv1.Group, n)
		for i, c := range changes[:n] {
			groups[i] = table.Group(c)
		}
		changes = changes[n:]
		if _, _, err := m.store.CommitGroups(ctx, "reaper", groups); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			m.log.Warn("rows without an owner stay until the next look", "err", err)
			return nil
		}
	}
	return nil
}

// orphans returns deletions of all rows whose owner does not exist, each with the version that was
// seen.
func orphans(v *table.View) []*swarmv1.Change {
	var out []*swarmv1.Change
	for st := range v.NodeStates.All() {
		if _, ok := v.Nodes.Get(st.GetNodeId()); !ok {
			out = append(out, table.Delete(st))
		}
	}
	for c := range v.ImageCopies.All() {
		if _, ok := v.Nodes.Get(c.GetNodeId()); !ok {
			out = append(out, table.Delete(c))
		}
	}
	for st := range v.Statuses.All() {
		if _, ok := v.Tasks.Get(st.GetTaskId()); !ok {
			out = append(out, table.Delete(st))
		}
	}
	for e := range v.Endpoints.All() {
		if _, ok := v.Services.Get(e.GetServiceId()); !ok {
			out = append(out, table.Delete(e))
		}
	}
	for r := range v.Revisions.All() {
		if _, ok := v.Services.Get(r.GetServiceId()); !ok {
			out = append(out, table.Delete(r))
		}
	}
	for c := range v.Claims.All() {
		if !owned(v, c) {
			out = append(out, table.Delete(c))
		}
	}
	return out
}

// owned reports whether the owner of a claim exists. Ports of the mesh belong to services, ports of
// one node to tasks, addresses to tasks, services and nodes, and VNIs and address cursors to
// networks. A claim of another kind counts as owned, because a newer version may have made it.
func owned(v *table.View, c *swarmv1.Claim) bool {
	kind, rest, _ := strings.Cut(c.GetKey(), "/")
	switch kind {
	case "port", "addr":
		id := ipam.OwnerID(c.GetOwner())
		_, service := v.Services.Get(id)
		_, task := v.Tasks.Get(id)
		_, node := v.Nodes.Get(id)
		return service || task || node
	case "vni":
		_, network := v.Networks.Get(c.GetOwner())
		return network
	case "next":
		id, _, cursor := strings.Cut(rest, "/")
		_, network := v.Networks.Get(id)
		return network || !cursor
	}
	return true
}

// oldRevisions returns deletions of a service's revisions beyond keptRevisions, oldest first.
// Revisions that a task, the service or its rollback names stay. So does the first revision with
// each task template in use, because the planner compares templates by it.
func oldRevisions(v *table.View, service string) []*swarmv1.Change {
	svc, ok := v.Services.Get(service)
	if !ok {
		return nil
	}
	var all []*swarmv1.Revision
	for r := range v.RevisionsOf(service) {
		all = append(all, r)
	}
	if len(all) <= keptRevisions {
		return nil
	}
	used := map[uint64]bool{svc.GetRevision(): true, svc.GetPreviousRevision(): true}
	for t := range v.TasksOfService(service) {
		used[t.GetRevision()] = true
	}
	for _, r := range all {
		if used[r.GetNumber()] {
			used[r.GetTemplate()] = true
		}
	}
	var out []*swarmv1.Change
	for _, r := range all[:len(all)-keptRevisions] {
		if !used[r.GetNumber()] {
			out = append(out, table.Delete(r))
		}
	}
	return out
}
