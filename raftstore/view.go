package raftstore

import (
	"iter"
	"sync/atomic"

	"github.com/tidwall/btree"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// View is the whole state as of one log entry: immutable, safe for concurrent use, free to take and to keep. Its rows
// are read-only: clone, edit, and write with the version that you read.
type View struct {
	Nodes       Table[*swarmv1.Node]
	NodeStates  Table[*swarmv1.NodeState]
	Services    Table[*swarmv1.Service]
	Revisions   Table[*swarmv1.Revision]
	Tasks       Table[*swarmv1.Task]
	Statuses    Table[*swarmv1.TaskStatus]
	Networks    Table[*swarmv1.Network]
	Endpoints   Table[*swarmv1.Endpoint]
	Claims      Table[*swarmv1.Claim]
	Secrets     Table[*swarmv1.Secret]
	Configs     Table[*swarmv1.Config]
	Volumes     Table[*swarmv1.Volume]
	Images      Table[*swarmv1.Image]
	ImageCopies Table[*swarmv1.ImageCopy]
	Clusters    Table[*swarmv1.Cluster]
	RaftMembers Table[*swarmv1.RaftMember]
	Credentials Table[*swarmv1.Credential]

	index   uint64
	cluster *swarmv1.Cluster
	bySlot  *btree.BTreeG[*swarmv1.Task]
	byNode  *btree.BTreeG[*swarmv1.Task]
	names   struct {
		services *btree.Map[string, *swarmv1.Service]
		networks *btree.Map[string, *swarmv1.Network]
		secrets  *btree.Map[string, *swarmv1.Secret]
		configs  *btree.Map[string, *swarmv1.Config]
		images   *btree.Map[string, *swarmv1.Image]
	}
	taken atomic.Bool // somebody may hold it: Apply must copy what it writes
}

// Index is that of the newest log entry whose effects are in the view.
func (v *View) Index() uint64 { return v.index }

// Cluster is the one Cluster row; nil before it is created.
func (v *View) Cluster() *swarmv1.Cluster { return v.cluster }

// Status of a task; nil when there is none.
func (v *View) Status(taskID string) *swarmv1.TaskStatus {
	st, _ := v.Statuses.Get(taskID)
	return st
}

// Revision of a service.
func (v *View) Revision(serviceID string, number uint64) (*swarmv1.Revision, bool) {
	return v.Revisions.Get(RevisionKey(serviceID, number))
}

// RevisionsOf yields a service's revisions, oldest first.
func (v *View) RevisionsOf(serviceID string) iter.Seq[*swarmv1.Revision] {
	return v.Revisions.Prefix(serviceID + "/")
}

// ServiceByName finds a service by its name, without regard to case.
func (v *View) ServiceByName(name string) (*swarmv1.Service, bool) {
	return v.names.services.Get(ident.Fold(name))
}

// NetworkByName finds a network by its name, without regard to case.
func (v *View) NetworkByName(name string) (*swarmv1.Network, bool) {
	return v.names.networks.Get(ident.Fold(name))
}

// SecretByName finds a secret.
func (v *View) SecretByName(name string) (*swarmv1.Secret, bool) {
	return v.names.secrets.Get(name)
}

// ConfigByName finds a config.
func (v *View) ConfigByName(name string) (*swarmv1.Config, bool) {
	return v.names.configs.Get(name)
}

// ImageByName finds an image by its normalised name.
func (v *View) ImageByName(name string) (*swarmv1.Image, bool) {
	return v.names.images.Get(name)
}

// TasksOfService yields a service's tasks by slot, then id.
func (v *View) TasksOfService(serviceID string) iter.Seq[*swarmv1.Task] {
	return ascend(v.bySlot, &swarmv1.Task{ServiceId: serviceID}, func(t *swarmv1.Task) bool { return t.GetServiceId() == serviceID })
}

// TasksOfSlot yields the tasks, running and past, of one slot of a service.
func (v *View) TasksOfSlot(serviceID string, slot uint64) iter.Seq[*swarmv1.Task] {
	return ascend(v.bySlot, &swarmv1.Task{ServiceId: serviceID, Slot: slot}, func(t *swarmv1.Task) bool {
		return t.GetServiceId() == serviceID && t.GetSlot() == slot
	})
}

// TasksOnNode yields the tasks that name the node.
func (v *View) TasksOnNode(nodeID string) iter.Seq[*swarmv1.Task] {
	return ascend(v.byNode, &swarmv1.Task{NodeId: nodeID}, func(t *swarmv1.Task) bool { return t.GetNodeId() == nodeID })
}

func ascend[T any](tree *btree.BTreeG[T], from T, in func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		tree.Ascend(from, func(r T) bool { return in(r) && yield(r) })
	}
}

// Format is the newest command format that every member knows. What a newer format brought must not be written yet.
func (v *View) Format() uint32 { return formatOf(v.cluster) }

func formatOf(c *swarmv1.Cluster) uint32 { return max(c.GetFormat(), 1) }
