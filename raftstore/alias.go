package raftstore

import (
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/logstore"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// The names below have moved to packages table, watch and logstore. They stay until the packages
// that use them name the new ones.
type (
	View      = table.View
	Row       = table.Row
	RowChange = table.RowChange
	TableID   = table.ID
	Batch     = watch.Batch
	Watcher   = watch.Watcher
	Sealer    = logstore.Sealer
	Disk      = logstore.Disk

	Table[T Row] = table.Rows[T]
)

const (
	Format = table.Format

	TableNode       = table.Node
	TableNodeState  = table.NodeState
	TableService    = table.Service
	TableRevision   = table.Revision
	TableTask       = table.Task
	TableTaskStatus = table.TaskStatus
	TableNetwork    = table.Network
	TableEndpoint   = table.Endpoint
	TableClaim      = table.Claim
	TableSecret     = table.Secret
	TableConfig     = table.Config
	TableVolume     = table.Volume
	TableImage      = table.Image
	TableImageCopy  = table.ImageCopy
	TableCluster    = table.Cluster
	TableRaftMember = table.RaftMember
	TableCredential = table.Credential
)

// Errors that have moved.
var (
	ErrResync        = watch.ErrResync
	ErrUnknownFormat = table.ErrUnknownFormat
)

func Create(obj proto.Message) *swarmv1.Change           { return table.Create(obj) }
func Update(obj proto.Message) *swarmv1.Change           { return table.Update(obj) }
func Put(obj proto.Message) *swarmv1.Change              { return table.Put(obj) }
func Touch(obj proto.Message) *swarmv1.Change            { return table.Touch(obj) }
func Delete(obj proto.Message) *swarmv1.Change           { return table.Delete(obj) }
func DeleteKey(id TableID, key string) *swarmv1.Change   { return table.DeleteKey(id, key) }
func Report(st *swarmv1.TaskStatus) *swarmv1.Change      { return table.Report(st) }
func Group(changes ...*swarmv1.Change) *swarmv1.Group    { return table.Group(changes...) }
func Key(obj proto.Message) string                       { return table.Key(obj) }
func RevisionKey(serviceID string, number uint64) string { return table.RevisionKey(serviceID, number) }
func Object(obj proto.Message) *swarmv1.Object           { return table.Object(obj) }
func ViewOf(objs ...proto.Message) *View                 { return table.ViewOf(objs...) }
