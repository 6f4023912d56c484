package table

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// State is the result of applying the log. It is not safe for concurrent use: one goroutine applies
// entries and makes Views, which others read.
type State struct {
	index    uint64
	requests requestSessions

	tables *tables
}

// NewState returns the empty state.
func NewState() *State { return &State{requests: newRequestSessions(), tables: newTables()} }

// Advance records that the log entry with the given index has no changes for the tables. Raft's
// configuration entries are such entries.
func (s *State) Advance(index uint64) { s.index = index }

// View returns the state as a View. The cost depends only on the number of tables that have changed
// since the last call.
func (s *State) View() *View {
	v := &View{index: s.index, cluster: s.cluster()}
	s.tables.freeze(v)
	return v
}

func (s *State) cluster() *swarmv1.Cluster {
	_, c, _ := s.tables.Clusters.byKey.Min()
	return c
}

// IncrementEpoch raises the epoch of the cluster by one. It does nothing if there is no Cluster
// row. It also raises the row's version to the index of the state, because every change of a row
// must change its version: an Update that was made from the old row must not restore the old epoch.
func (s *State) IncrementEpoch() {
	if c := s.cluster(); c != nil {
		c = c.CloneVT()
		c.Epoch++
		if c.Meta != nil { // max, because a snapshot that was edited or damaged may have any versions
			c.Meta.Version = max(s.index, c.Meta.Version)
		}
		s.tables.Clusters.put(c.GetId(), c)
	}
}

// entry is the log entry that Apply is applying.
type entry struct {
	index   uint64
	time    *timestamppb.Timestamp
	changes []RowChange // of the groups applied so far, in order
}

// applyGroup applies all changes of a group, or none of them. Each change sees the changes before
// it. applyGroup returns nil, or the reason why the group is refused. The result is replicated, so
// it depends only on the state and the group.
func (s *State) applyGroup(e *entry, g *swarmv1.Group) *swarmv1.GroupResult {
	before := len(e.changes)
	for _, c := range g.GetChanges() {
		if refused := s.applyChange(e, c); refused != nil {
			s.revert(e, before)
			return refused
		}
	}
	return nil
}

// revert undoes the changes e.changes[from:], newest first.
func (s *State) revert(e *entry, from int) {
	for i := len(e.changes) - 1; i >= from; i-- {
		c := &e.changes[i]
		if c.Old == nil {
			s.tables.byID[c.Table].remove(c.Key)
		} else {
			s.tables.byID[c.Table].put(c.Key, c.Old.(Row))
		}
	}
	clear(e.changes[from:])
	e.changes = e.changes[:from]
}

func (s *State) applyChange(e *entry, c *swarmv1.Change) *swarmv1.GroupResult {
	if del := c.GetDelete(); del != nil {
		return s.applyDelete(e, c, ID(del.GetTable()), del.GetKey())
	}
	table, row := unwrap(c.GetPut())
	key := Key(row)
	if key == "" {
		return refuseRow(swarmv1.GroupRefusal_NO_KEY, table, "")
	}
	rows := s.tables.byID[table]
	old := rows.get(key)
	if refused := checkPrecondition(c, table, key, old, row); refused != nil {
		return refused
	}
	if holder := rows.nameHolder(row); holder != "" {
		refused := refuseRow(swarmv1.GroupRefusal_NAME_TAKEN, table, key)
		refused.Refusal.Name, refused.Refusal.Holder = rows.givenName(row), holder
		return refused
	}
	m := &swarmv1.Meta{Version: e.index, CreatedAt: e.time, UpdatedAt: e.time}
	if old != nil {
		m.CreatedAt = old.GetMeta().GetCreatedAt()
	}
	rows.stamp(row, m)
	rows.put(key, row)
	rc := RowChange{Table: table, Key: key, New: row, Index: e.index, Time: e.time}
	if old != nil {
		rc.Old = old
	}
	e.changes = append(e.changes, rc)
	return nil
}

func (s *State) applyDelete(e *entry, c *swarmv1.Change, table ID, key string) *swarmv1.GroupResult {
	rows := s.tables.byID[table]
	old := rows.get(key)
	if refused := checkPrecondition(c, table, key, old, nil); refused != nil {
		return refused
	}
	if old == nil { // no precondition: the row is already deleted
		return nil
	}
	rows.remove(key)
	e.changes = append(e.changes, RowChange{Table: table, Key: key, Old: old, Index: e.index, Time: e.time})
	return nil
}

// checkPrecondition returns why the change is refused, or nil.
func checkPrecondition(c *swarmv1.Change, table ID, key string, old, row Row) *swarmv1.GroupResult {
	switch p := c.GetPrecondition().(type) {
	case *swarmv1.Change_IfAbsent:
		if old != nil {
			refused := refuseRow(swarmv1.GroupRefusal_EXISTS, table, key)
			if claim, ok := old.(*swarmv1.Claim); ok {
				refused.Refusal.Holder = claim.GetOwner()
			}
			return refused
		}
		return nil
	case *swarmv1.Change_IfVersion:
		if old == nil {
			return refuseRow(swarmv1.GroupRefusal_GONE, table, key)
		}
		if have := old.GetMeta().GetVersion(); have != p.IfVersion {
			refused := refuseRow(swarmv1.GroupRefusal_OTHER_VERSION, table, key)
			refused.Refusal.Have, refused.Refusal.Want = have, p.IfVersion
			return refused
		}
	case *swarmv1.Change_IfPresent:
		if old == nil {
			return refuseRow(swarmv1.GroupRefusal_GONE, table, key)
		}
	case *swarmv1.Change_IfNewer:
		if old == nil {
			return refuseRow(swarmv1.GroupRefusal_GONE, table, key)
		}
		was, is := old.(*swarmv1.TaskStatus), row.(*swarmv1.TaskStatus)
		if is.GetSessionEpoch() < was.GetSessionEpoch() || is.GetSessionEpoch() == was.GetSessionEpoch() && is.GetSequence() <= was.GetSequence() {
			refused := refuseRow(swarmv1.GroupRefusal_OLD_REPORT, table, key)
			refused.Refusal.HaveEpoch, refused.Refusal.Have = was.GetSessionEpoch(), was.GetSequence()
			refused.Refusal.WantEpoch, refused.Refusal.Want = is.GetSessionEpoch(), is.GetSequence()
			return refused
		}
	}
	return nil
}
