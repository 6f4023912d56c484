package table

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// State is the result of applying the log. It is not safe for concurrent use: one goroutine applies
// entries and makes Views, which others read.
type State struct {
	index    uint64
	sessions sessions

	tables *tables
}

// NewState returns the empty state.
func NewState() *State { return &State{sessions: newSessions(), tables: newTables()} }

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

// IncrementEpoch raises the epoch of the cluster by one. It does nothing if there is no Cluster row.
func (s *State) IncrementEpoch() {
	if c := s.cluster(); c != nil {
		c = c.CloneVT()
		c.Epoch++
		if c.Meta != nil {
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

// applyGroup applies one group, all or nothing. Each change sees the changes before it. The
// returned error must not be wrapped: its text is replicated and must be the same on every member.
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

// revert undoes the changes from index from on, newest first.
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
		return refuse(codes.InvalidArgument, "%s has no key", table)
	}
	rows := s.tables.byID[table]
	old := rows.get(key)
	if refused := checkPrecondition(c, table, key, old, row); refused != nil {
		return refused
	}
	if holder := rows.nameHolder(row); holder != "" {
		return refuse(codes.AlreadyExists, "%s name %q is taken by %s", table, rows.givenName(row), holder)
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
			return refuse(codes.AlreadyExists, "%s %s exists%s", table, key, ownerSuffix(old))
		}
	case *swarmv1.Change_IfVersion:
		if old == nil {
			return refuse(codes.NotFound, "%s %s is gone", table, key)
		}
		if have := old.GetMeta().GetVersion(); have != p.IfVersion {
			return refuse(codes.Aborted, "%s %s has changed: its version is %d, not %d", table, key, have, p.IfVersion)
		}
	case *swarmv1.Change_IfPresent:
		if old == nil {
			return refuse(codes.NotFound, "%s %s is gone", table, key)
		}
	case *swarmv1.Change_IfNewer:
		if old == nil {
			return refuse(codes.NotFound, "%s %s is gone", table, key)
		}
		was, is := old.(*swarmv1.TaskStatus), row.(*swarmv1.TaskStatus)
		if is.GetSessionEpoch() < was.GetSessionEpoch() || is.GetSessionEpoch() == was.GetSessionEpoch() && is.GetSequence() <= was.GetSequence() {
			return refuse(codes.Aborted, "%s %s has changed: report %d/%d is not newer than %d/%d", table, key,
				is.GetSessionEpoch(), is.GetSequence(), was.GetSessionEpoch(), was.GetSequence())
		}
	}
	return nil
}

func refuse(code codes.Code, format string, args ...any) *swarmv1.GroupResult {
	return &swarmv1.GroupResult{Code: uint32(code), Error: fmt.Sprintf(format, args...)}
}

// ownerSuffix names the owner if the row is a claim.
func ownerSuffix(r Row) string {
	if c, ok := r.(*swarmv1.Claim); ok {
		return " and belongs to " + c.GetOwner()
	}
	return ""
}
