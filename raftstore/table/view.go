package table

import (
	"iter"

	swarmv1 "swarm/proto/swarm/v1"
)

// View is the whole state after one log entry. It is immutable, safe for concurrent use, and cheap
// to take and to keep. Its rows are read-only: to change a row, clone it, edit the clone, and
// commit it with the version that was read.
//
// The fields with a table tag are the schema: one field for each kind of row in swarmv1.Object.
// After an edit run go generate, which makes everything else that a table needs. The options of the
// tag:
//
//	key=FIELD         the string field that is the key of a row
//	key=FIELD+FIELD   a composite key: the values with "/" between them. A uint64 has 10 digits, so
//	                  that keys sort by number
//	name=PATH         the field with the unique name; fields of messages follow after "."
//	fold              unique names ignore case
//	indexes=FUNC      the function of this package that returns the table's further orders
type View struct {
	Nodes        Rows[*swarmv1.Node]        `table:"key=id"`
	NodeStates   Rows[*swarmv1.NodeState]   `table:"key=node_id"`
	Services     Rows[*swarmv1.Service]     `table:"key=id,name=name,fold"`
	Revisions    Rows[*swarmv1.Revision]    `table:"key=service_id+number"`
	Tasks        Rows[*swarmv1.Task]        `table:"key=id,indexes=taskIndexes"`
	Statuses     Rows[*swarmv1.TaskStatus]  `table:"key=task_id"`
	Networks     Rows[*swarmv1.Network]     `table:"key=id,name=spec.name,fold"`
	Endpoints    Rows[*swarmv1.Endpoint]    `table:"key=service_id"`
	Claims       Rows[*swarmv1.Claim]       `table:"key=key"`
	Secrets      Rows[*swarmv1.Secret]      `table:"key=id,name=spec.name"`
	Configs      Rows[*swarmv1.Config]      `table:"key=id,name=spec.name"`
	Volumes      Rows[*swarmv1.Volume]      `table:"key=node_id+name"`
	Images       Rows[*swarmv1.Image]       `table:"key=id,name=name"`
	ImageCopies  Rows[*swarmv1.ImageCopy]   `table:"key=digest+node_id"`
	Clusters     Rows[*swarmv1.Cluster]     `table:"key=id"`
	RaftMembers  Rows[*swarmv1.RaftMember]  `table:"key=node_id"`
	Credentials  Rows[*swarmv1.Credential]  `table:"key=id"`
	DataVersions Rows[*swarmv1.DataVersion] `table:"key=object_id+number"`
	Runs         Rows[*swarmv1.Run]         `table:"key=service_id+id"`

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

// RunsOf yields the runs of a job, ordered by id.
func (v *View) RunsOf(serviceID string) iter.Seq[*swarmv1.Run] { return v.Runs.Prefix(serviceID + "/") }

// DataVersionsOf yields the versions of a secret or config, oldest first.
func (v *View) DataVersionsOf(objectID string) iter.Seq[*swarmv1.DataVersion] {
	return v.DataVersions.Prefix(objectID + "/")
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
