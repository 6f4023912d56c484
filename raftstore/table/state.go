package table

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// State is the result of applying the log. It is not safe for concurrent use: one goroutine applies
// entries and makes Views, which others read.
type State struct {
	index    uint64
	sessions sessions

	nodes       *rows[*swarmv1.Node]
	nodeStates  *rows[*swarmv1.NodeState]
	services    *rows[*swarmv1.Service]
	revisions   *rows[*swarmv1.Revision]
	tasks       *rows[*swarmv1.Task]
	statuses    *rows[*swarmv1.TaskStatus]
	networks    *rows[*swarmv1.Network]
	endpoints   *rows[*swarmv1.Endpoint]
	claims      *rows[*swarmv1.Claim]
	secrets     *rows[*swarmv1.Secret]
	configs     *rows[*swarmv1.Config]
	volumes     *rows[*swarmv1.Volume]
	images      *rows[*swarmv1.Image]
	imageCopies *rows[*swarmv1.ImageCopy]
	clusters    *rows[*swarmv1.Cluster]
	members     *rows[*swarmv1.RaftMember]
	credentials *rows[*swarmv1.Credential]

	all [tables]anyRows // the tables above by ID; all[0] is nil
}

// NewState returns the empty state.
func NewState() *State {
	s := &State{sessions: newSessions()}
	s.nodes = newRows(schema[*swarmv1.Node]{
		Node, (*swarmv1.Node).GetId, func(r *swarmv1.Node, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.nodeStates = newRows(schema[*swarmv1.NodeState]{
		NodeState, (*swarmv1.NodeState).GetNodeId, func(r *swarmv1.NodeState, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.services = newRows(schema[*swarmv1.Service]{
		Service, (*swarmv1.Service).GetId, func(r *swarmv1.Service, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Service) string { return ident.Fold(r.GetName()) },
	})
	s.revisions = newRows(schema[*swarmv1.Revision]{
		Revision, func(r *swarmv1.Revision) string { return RevisionKey(r.GetServiceId(), r.GetNumber()) },
		func(r *swarmv1.Revision, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.tasks = newRows(
		schema[*swarmv1.Task]{
			Task, (*swarmv1.Task).GetId, func(r *swarmv1.Task, m *swarmv1.Meta) { r.Meta = m }, nil,
		}, tasksBySlot(), tasksByNode())
	s.statuses = newRows(schema[*swarmv1.TaskStatus]{
		TaskStatus, (*swarmv1.TaskStatus).GetTaskId, func(r *swarmv1.TaskStatus, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.networks = newRows(schema[*swarmv1.Network]{
		Network, (*swarmv1.Network).GetId, func(r *swarmv1.Network, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Network) string { return ident.Fold(r.GetSpec().GetName()) },
	})
	s.endpoints = newRows(schema[*swarmv1.Endpoint]{
		Endpoint, (*swarmv1.Endpoint).GetServiceId, func(r *swarmv1.Endpoint, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.claims = newRows(schema[*swarmv1.Claim]{
		Claim, (*swarmv1.Claim).GetKey, func(r *swarmv1.Claim, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.secrets = newRows(schema[*swarmv1.Secret]{
		Secret, (*swarmv1.Secret).GetId, func(r *swarmv1.Secret, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Secret) string { return r.GetSpec().GetName() },
	})
	s.configs = newRows(schema[*swarmv1.Config]{
		Config, (*swarmv1.Config).GetId, func(r *swarmv1.Config, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Config) string { return r.GetSpec().GetName() },
	})
	s.volumes = newRows(schema[*swarmv1.Volume]{
		Volume, (*swarmv1.Volume).GetId, func(r *swarmv1.Volume, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.images = newRows(schema[*swarmv1.Image]{
		Image, (*swarmv1.Image).GetId, func(r *swarmv1.Image, m *swarmv1.Meta) { r.Meta = m }, (*swarmv1.Image).GetName,
	})
	s.imageCopies = newRows(schema[*swarmv1.ImageCopy]{
		ImageCopy, func(r *swarmv1.ImageCopy) string { return r.GetDigest() + "/" + r.GetNodeId() },
		func(r *swarmv1.ImageCopy, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.clusters = newRows(schema[*swarmv1.Cluster]{
		Cluster, (*swarmv1.Cluster).GetId, func(r *swarmv1.Cluster, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.members = newRows(schema[*swarmv1.RaftMember]{
		RaftMember, (*swarmv1.RaftMember).GetNodeId, func(r *swarmv1.RaftMember, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.credentials = newRows(schema[*swarmv1.Credential]{
		Credential, (*swarmv1.Credential).GetId, func(r *swarmv1.Credential, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.all = [tables]anyRows{
		nil, s.nodes, s.nodeStates, s.services, s.revisions, s.tasks, s.statuses, s.networks, s.endpoints, s.claims,
		s.secrets, s.configs, s.volumes, s.images, s.imageCopies, s.clusters, s.members,
		s.credentials,
	}
	return s
}

// The indexes of tasks.
const (
	bySlot = iota
	byNode
)

func tasksBySlot() *index[*swarmv1.Task] {
	return newIndex(func(a, b *swarmv1.Task) bool {
		if a.ServiceId != b.ServiceId {
			return a.ServiceId < b.ServiceId
		}
		if a.Slot != b.Slot {
			return a.Slot < b.Slot
		}
		return a.Id < b.Id
	}, func(*swarmv1.Task) bool { return true })
}

func tasksByNode() *index[*swarmv1.Task] {
	return newIndex(func(a, b *swarmv1.Task) bool {
		if a.NodeId != b.NodeId {
			return a.NodeId < b.NodeId
		}
		return a.Id < b.Id
	}, func(t *swarmv1.Task) bool { return t.NodeId != "" })
}

// Advance records that the log entry with the given index has no changes for the tables. Raft's
// configuration entries are such entries.
func (s *State) Advance(index uint64) { s.index = index }

// View returns the state as a View. The cost depends only on the number of tables that have changed
// since the last call.
func (s *State) View() *View {
	return &View{
		Nodes:       Rows[*swarmv1.Node]{s.nodes.freeze()},
		NodeStates:  Rows[*swarmv1.NodeState]{s.nodeStates.freeze()},
		Services:    Rows[*swarmv1.Service]{s.services.freeze()},
		Revisions:   Rows[*swarmv1.Revision]{s.revisions.freeze()},
		Tasks:       Rows[*swarmv1.Task]{s.tasks.freeze()},
		Statuses:    Rows[*swarmv1.TaskStatus]{s.statuses.freeze()},
		Networks:    Rows[*swarmv1.Network]{s.networks.freeze()},
		Endpoints:   Rows[*swarmv1.Endpoint]{s.endpoints.freeze()},
		Claims:      Rows[*swarmv1.Claim]{s.claims.freeze()},
		Secrets:     Rows[*swarmv1.Secret]{s.secrets.freeze()},
		Configs:     Rows[*swarmv1.Config]{s.configs.freeze()},
		Volumes:     Rows[*swarmv1.Volume]{s.volumes.freeze()},
		Images:      Rows[*swarmv1.Image]{s.images.freeze()},
		ImageCopies: Rows[*swarmv1.ImageCopy]{s.imageCopies.freeze()},
		Clusters:    Rows[*swarmv1.Cluster]{s.clusters.freeze()},
		RaftMembers: Rows[*swarmv1.RaftMember]{s.members.freeze()},
		Credentials: Rows[*swarmv1.Credential]{s.credentials.freeze()},
		index:       s.index,
		cluster:     s.cluster(),
	}
}

func (s *State) cluster() *swarmv1.Cluster {
	_, c, _ := s.clusters.tree.Min()
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
		s.clusters.put(c.GetId(), c)
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
			s.all[c.Table].remove(c.Key)
		} else {
			s.all[c.Table].put(c.Key, c.Old.(Row))
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
	rows := s.all[table]
	old := rows.get(key)
	if refused := checkPrecondition(c, table, key, old, row); refused != nil {
		return refused
	}
	if holder := rows.nameHolder(row); holder != "" {
		return refuse(codes.AlreadyExists, "%s name %q is taken by %s", table, nameOf(row), holder)
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
	rows := s.all[table]
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

func nameOf(r Row) string {
	switch r := r.(type) {
	case interface{ GetName() string }:
		return r.GetName()
	case *swarmv1.Network:
		return r.GetSpec().GetName()
	case *swarmv1.Secret:
		return r.GetSpec().GetName()
	case *swarmv1.Config:
		return r.GetSpec().GetName()
	}
	return ""
}
