package manager

import (
	"context"
	"slices"
	"strings"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// keptVersions is how many versions of a secret or config stay, in addition to those that are
	// in use.
	keptVersions = 10
	// garbageBatch limits the rows that one commit deletes.
	garbageBatch = 1000
)

// collectGarbage is a duty of the leader. It deletes old revisions, old versions of secrets and
// configs, and rows whose owner does not exist, until ctx ends. A removal may take several commits,
// so rows lose their owner if the leader is lost between two of them, or if another writer adds a
// row at the same time. A node that is removed leaves its volumes, and its image copies if the duty
// forget removes it. collectGarbage looks for such rows when a term begins and when a node was
// removed, and for old revisions and versions when there is a new one.
//
// The planner deletes what ends in the normal course of events: old tasks, and the rows and claims
// of a service that is removed.
func (m *Manager) collectGarbage(ctx context.Context) error {
	view, w := m.store.Watch(table.Node, table.Revision, table.DataVersion)
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
			return err // keepRunning starts the duty again.
		}
		for _, c := range batch.Changes {
			var changes []*swarmv1.Change
			switch row := c.New.(type) {
			case *swarmv1.Revision:
				changes = oldRevisions(batch.View, row.GetServiceId())
			case *swarmv1.DataVersion:
				changes = oldVersions(batch.View, row.GetObjectId())
			case nil:
				if c.Table == table.Node {
					changes = orphans(batch.View)
				}
			}
			if err := m.deleteRows(ctx, changes); err != nil {
				return err
			}
		}
	}
}

// deleteRows commits each deletion as its own group, so that the store rejects only the deletions
// of rows that have changed meanwhile.
func (m *Manager) deleteRows(ctx context.Context, changes []*swarmv1.Change) error {
	for len(changes) > 0 {
		n := min(len(changes), garbageBatch)
		groups := make([]*swarmv1.Group, n)
		for i, c := range changes[:n] {
			groups[i] = table.Group(c)
		}
		changes = changes[n:]
		if _, _, err := m.store.CommitGroups(ctx, "garbage", groups); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			m.log.Warn("rows without an owner or old revisions stay for now", "err", err)
			return nil
		}
	}
	return nil
}

// orphans returns deletions of all rows whose owner does not exist. Each deletes the version of the
// row in the view.
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
	for row := range v.Volumes.All() {
		if _, ok := v.Nodes.Get(row.GetNodeId()); !ok && row.GetNodeId() != "" {
			out = append(out, table.Delete(row))
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
	for version := range v.DataVersions.All() {
		if !isData(v, version.GetObjectId()) {
			out = append(out, table.Delete(version))
		}
	}
	for r := range v.Runs.All() {
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
// one node to tasks, addresses to tasks, services and nodes, VNIs and address cursors to networks,
// and guards of data to secrets and configs. A claim of another kind counts as owned, because a
// newer version may have made it.
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
	case "data":
		return isData(v, c.GetOwner())
	case "next":
		id, _, cursor := strings.Cut(rest, "/")
		_, network := v.Networks.Get(id)
		return network || !cursor
	}
	return true
}

// isData reports whether an id is that of a secret or config.
func isData(v *table.View, id string) bool {
	_, secret := v.Secrets.Get(id)
	_, config := v.Configs.Get(id)
	return secret || config
}

// oldRevisions returns deletions of all revisions of a service but the newest, the
// oldest first. It keeps the revisions in use: the current and the previous one, and those of
// tasks. It also keeps the revision whose number is the template number of a revision in use,
// because the planner compares templates by that number.
func oldRevisions(v *table.View, service string) []*swarmv1.Change {
	svc, ok := v.Services.Get(service)
	if !ok {
		return nil
	}
	var all []*swarmv1.Revision
	for r := range v.RevisionsOf(service) {
		all = append(all, r)
	}
	kept := int(v.Cluster().GetSpec().GetOrchestration().GetRevisionHistoryLimit())
	if kept == 0 {
		kept = spec.DefaultRevisionHistory
	}
	if len(all) <= kept {
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
	for _, r := range all[:len(all)-kept] {
		if !used[r.GetNumber()] {
			out = append(out, table.Delete(r))
		}
	}
	return out
}

// oldVersions returns deletions of all versions of a secret or config but the newest keptVersions,
// the oldest first. It leaves the current version, and those that a stored revision of a service
// names.
func oldVersions(v *table.View, id string) []*swarmv1.Change {
	all := slices.Collect(v.DataVersionsOf(id))
	if len(all) <= keptVersions {
		return nil
	}
	secret, _ := v.Secrets.Get(id)
	config, _ := v.Configs.Get(id)
	used := map[uint64]bool{secret.GetStatus().GetNumber(): true, config.GetStatus().GetNumber(): true}
	for r := range v.Revisions.All() {
		for ref := range spec.DataReferences(r.GetSpec()) {
			if ref.GetId() == id {
				used[ref.GetNumber()], used[ref.GetPrevious()] = true, true
			}
		}
	}
	var out []*swarmv1.Change
	for _, version := range all[:len(all)-keptVersions] {
		if !used[version.GetNumber()] {
			out = append(out, table.Delete(version))
		}
	}
	return out
}
