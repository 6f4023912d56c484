package table

import (
	"iter"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// View is the whole state after one log entry. It is immutable, safe for concurrent use, and cheap
// to take and to keep. Its rows are read-only: to change a row, clone it, edit the clone, and
// commit it with the version that was read.
type View struct {
	Nodes       Rows[*swarmv1.Node]
	NodeStates  Rows[*swarmv1.NodeState]
	Services    Rows[*swarmv1.Service]
	Revisions   Rows[*swarmv1.Revision]
	Tasks       Rows[*swarmv1.Task]
	Statuses    Rows[*swarmv1.TaskStatus]
	Networks    Rows[*swarmv1.Network]
	Endpoints   Rows[*swarmv1.Endpoint]
	Claims      Rows[*swarmv1.Claim]
	Secrets     Rows[*swarmv1.Secret]
	Configs     Rows[*swarmv1.Config]
	Volumes     Rows[*swarmv1.Volume]
	Images      Rows[*swarmv1.Image]
	ImageCopies Rows[*swarmv1.ImageCopy]
	Clusters    Rows[*swarmv1.Cluster]
	RaftMembers Rows[*swarmv1.RaftMember]
	Credentials Rows[*swarmv1.Credential]

	index   uint64
	cluster *swarmv1.Cluster
}

// Index returns the index of the newest log entry that the view includes. Raft's no-ops and
// barriers do not count.
func (v *View) Index() uint64 { return v.index }

// Cluster returns the only Cluster row, or nil before it is created.
func (v *View) Cluster() *swarmv1.Cluster { return v.cluster }

// Status returns the status of a task, or nil if it has none.
func (v *View) Status(taskID string) *swarmv1.TaskStatus {
	st, _ := v.Statuses.Get(taskID)
	return st
}

// Revision returns a revision of a service.
func (v *View) Revision(serviceID string, number uint64) (*swarmv1.Revision, bool) {
	return v.Revisions.Get(RevisionKey(serviceID, number))
}

// RevisionsOf yields the revisions of a service, oldest first.
func (v *View) RevisionsOf(serviceID string) iter.Seq[*swarmv1.Revision] {
	return v.Revisions.Prefix(serviceID + "/")
}

// ServiceByName returns the service with the name, ignoring case.
func (v *View) ServiceByName(name string) (*swarmv1.Service, bool) {
	return v.Services.byName(ident.Fold(name))
}

// NetworkByName returns the network with the name, ignoring case.
func (v *View) NetworkByName(name string) (*swarmv1.Network, bool) {
	return v.Networks.byName(ident.Fold(name))
}

// SecretByName returns the secret with the name. Case matters.
func (v *View) SecretByName(name string) (*swarmv1.Secret, bool) {
	return v.Secrets.byName(name)
}

// ConfigByName returns the config with the name. Case matters.
func (v *View) ConfigByName(name string) (*swarmv1.Config, bool) {
	return v.Configs.byName(name)
}

// ImageByName returns the image with the normalised name.
func (v *View) ImageByName(name string) (*swarmv1.Image, bool) {
	return v.Images.byName(name)
}

// TasksOfService yields the tasks of a service, ordered by slot and id.
func (v *View) TasksOfService(serviceID string) iter.Seq[*swarmv1.Task] {
	return v.Tasks.ascend(bySlot, &swarmv1.Task{ServiceId: serviceID}, func(t *swarmv1.Task) bool { return t.GetServiceId() == serviceID })
}

// TasksOfSlot yields the tasks of one slot of a service, running and ended, ordered by id.
func (v *View) TasksOfSlot(serviceID string, slot uint64) iter.Seq[*swarmv1.Task] {
	return v.Tasks.ascend(bySlot, &swarmv1.Task{ServiceId: serviceID, Slot: slot}, func(t *swarmv1.Task) bool {
		return t.GetServiceId() == serviceID && t.GetSlot() == slot
	})
}

// TasksOnNode yields the tasks that are assigned to the node, ordered by id.
func (v *View) TasksOnNode(nodeID string) iter.Seq[*swarmv1.Task] {
	return v.Tasks.ascend(byNode, &swarmv1.Task{NodeId: nodeID}, func(t *swarmv1.Task) bool { return t.GetNodeId() == nodeID })
}

// Format returns the newest format that every member knows. Data of a newer format must not be
// written.
func (v *View) Format() uint32 { return formatOf(v.cluster) }

func formatOf(c *swarmv1.Cluster) uint32 { return max(c.GetFormat(), 1) }
