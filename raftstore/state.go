package raftstore

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// state is the result of applying the log. Only Raft's apply goroutine uses it, through fsm.
type state struct {
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

	all [tables]anyRows // the tables above by TableID; all[0] is nil
}

func newState() *state {
	s := &state{sessions: newSessions()}
	s.nodes = newRows(schema[*swarmv1.Node]{
		TableNode, (*swarmv1.Node).GetId, func(r *swarmv1.Node, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.nodeStates = newRows(schema[*swarmv1.NodeState]{
		TableNodeState, (*swarmv1.NodeState).GetNodeId, func(r *swarmv1.NodeState, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.services = newRows(schema[*swarmv1.Service]{
		TableService, (*swarmv1.Service).GetId, func(r *swarmv1.Service, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Service) string { return ident.Fold(r.GetName()) },
	})
	s.revisions = newRows(schema[*swarmv1.Revision]{
		TableRevision, func(r *swarmv1.Revision) string { return RevisionKey(r.GetServiceId(), r.GetNumber()) },
		func(r *swarmv1.Revision, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.tasks = newRows(
		schema[*swarmv1.Task]{
			TableTask, (*swarmv1.Task).GetId, func(r *swarmv1.Task, m *swarmv1.Meta) { r.Meta = m }, nil,
		}, tasksBySlot(), tasksByNode())
	s.statuses = newRows(schema[*swarmv1.TaskStatus]{
		TableTaskStatus, (*swarmv1.TaskStatus).GetTaskId, func(r *swarmv1.TaskStatus, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.networks = newRows(schema[*swarmv1.Network]{
		TableNetwork, (*swarmv1.Network).GetId, func(r *swarmv1.Network, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Network) string { return ident.Fold(r.GetSpec().GetName()) },
	})
	s.endpoints = newRows(schema[*swarmv1.Endpoint]{
		TableEndpoint, (*swarmv1.Endpoint).GetServiceId, func(r *swarmv1.Endpoint, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.claims = newRows(schema[*swarmv1.Claim]{
		TableClaim, (*swarmv1.Claim).GetKey, func(r *swarmv1.Claim, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.secrets = newRows(schema[*swarmv1.Secret]{
		TableSecret, (*swarmv1.Secret).GetId, func(r *swarmv1.Secret, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Secret) string { return r.GetSpec().GetName() },
	})
	s.configs = newRows(schema[*swarmv1.Config]{
		TableConfig, (*swarmv1.Config).GetId, func(r *swarmv1.Config, m *swarmv1.Meta) { r.Meta = m },
		func(r *swarmv1.Config) string { return r.GetSpec().GetName() },
	})
	s.volumes = newRows(schema[*swarmv1.Volume]{
		TableVolume, (*swarmv1.Volume).GetId, func(r *swarmv1.Volume, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.images = newRows(schema[*swarmv1.Image]{
		TableImage, (*swarmv1.Image).GetId, func(r *swarmv1.Image, m *swarmv1.Meta) { r.Meta = m }, (*swarmv1.Image).GetName,
	})
	s.imageCopies = newRows(schema[*swarmv1.ImageCopy]{
		TableImageCopy, func(r *swarmv1.ImageCopy) string { return r.GetDigest() + "/" + r.GetNodeId() },
		func(r *swarmv1.ImageCopy, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.clusters = newRows(schema[*swarmv1.Cluster]{
		TableCluster, (*swarmv1.Cluster).GetId, func(r *swarmv1.Cluster, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.members = newRows(schema[*swarmv1.RaftMember]{
		TableRaftMember, (*swarmv1.RaftMember).GetNodeId, func(r *swarmv1.RaftMember, m *swarmv1.Meta) { r.Meta = m }, nil,
	})
	s.credentials = newRows(schema[*swarmv1.Credential]{
		TableCredential, (*swarmv1.Credential).GetId, func(r *swarmv1.Credential, m *swarmv1.Meta) { r.Meta = m }, nil,
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

// view returns the state as a View.
func (s *state) view() *View {
	return &View{
		Nodes:       Table[*swarmv1.Node]{s.nodes.freeze()},
		NodeStates:  Table[*swarmv1.NodeState]{s.nodeStates.freeze()},
		Services:    Table[*swarmv1.Service]{s.services.freeze()},
		Revisions:   Table[*swarmv1.Revision]{s.revisions.freeze()},
		Tasks:       Table[*swarmv1.Task]{s.tasks.freeze()},
		Statuses:    Table[*swarmv1.TaskStatus]{s.statuses.freeze()},
		Networks:    Table[*swarmv1.Network]{s.networks.freeze()},
		Endpoints:   Table[*swarmv1.Endpoint]{s.endpoints.freeze()},
		Claims:      Table[*swarmv1.Claim]{s.claims.freeze()},
		Secrets:     Table[*swarmv1.Secret]{s.secrets.freeze()},
		Configs:     Table[*swarmv1.Config]{s.configs.freeze()},
		Volumes:     Table[*swarmv1.Volume]{s.volumes.freeze()},
		Images:      Table[*swarmv1.Image]{s.images.freeze()},
		ImageCopies: Table[*swarmv1.ImageCopy]{s.imageCopies.freeze()},
		Clusters:    Table[*swarmv1.Cluster]{s.clusters.freeze()},
		RaftMembers: Table[*swarmv1.RaftMember]{s.members.freeze()},
		Credentials: Table[*swarmv1.Credential]{s.credentials.freeze()},
		index:       s.index,
		cluster:     s.cluster(),
	}
}

func (s *state) cluster() *swarmv1.Cluster {
	_, c, _ := s.clusters.tree.Min()
	return c
}

// entry is the log entry that Apply is applying.
type entry struct {
	index   uint64
	time    *timestamppb.Timestamp
	changes []RowChange // of the groups applied so far, in order
}

// applyGroup applies one group, all or nothing. Each change sees the changes before it. The
// returned error must not be wrapped: its text is replicated and must be the same on every member.
func (s *state) applyGroup(e *entry, g *swarmv1.Group) *swarmv1.GroupResult {
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
func (s *state) revert(e *entry, from int) {
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

func (s *state) applyChange(e *entry, c *swarmv1.Change) *swarmv1.GroupResult {
	if del := c.GetDelete(); del != nil {
		return s.applyDelete(e, c, TableID(del.GetTable()), del.GetKey())
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

func (s *state) applyDelete(e *entry, c *swarmv1.Change, table TableID, key string) *swarmv1.GroupResult {
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
func checkPrecondition(c *swarmv1.Change, table TableID, key string, old, row Row) *swarmv1.GroupResult {
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
