package raftstore

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// TableID identifies a table. It is the field number of the row's kind in swarmv1.Object. It is
// stored in the log, so an id is never reused.
type TableID uint32

// The table ids.
const (
	TableNode       TableID = 1
	TableNodeState  TableID = 2
	TableService    TableID = 3
	TableRevision   TableID = 4
	TableTask       TableID = 5
	TableTaskStatus TableID = 6
	TableNetwork    TableID = 7
	TableEndpoint   TableID = 8
	TableClaim      TableID = 9
	TableSecret     TableID = 10
	TableConfig     TableID = 11
	TableVolume     TableID = 12
	TableImage      TableID = 13
	TableImageCopy  TableID = 14
	TableCluster    TableID = 15
	TableRaftMember TableID = 16
	TableCredential TableID = 17

	tables = 18 // highest id + 1
)

var tableNames = [tables]string{
	"", "node", "node state", "service", "revision", "task", "task status", "network", "endpoint", "claim", "secret",
	"config", "volume", "image", "image copy", "cluster", "raft member", "credential",
}

// String returns the name of one row of the table, as used in messages.
func (t TableID) String() string {
	if t > 0 && t < tables {
		return tableNames[t]
	}
	return fmt.Sprintf("table %d", uint32(t))
}

// Row is a stored object. Rows in a View are read-only.
type Row interface {
	proto.Message
	GetMeta() *swarmv1.Meta
}

// schema describes one kind of row. To add a kind, add its message to object.proto, a TableID, and
// a schema to newState.
type schema[T Row] struct {
	id      TableID
	key     func(T) string
	setMeta func(T, *swarmv1.Meta)
	// name returns the row's unique name; "" means that the row has none. If name is nil, the kind
	// has no unique names. Names of services and networks are case-folded, because containers look
	// them up in DNS, which ignores case.
	name func(T) string
}

// Key returns the key under which obj is stored, or "" if obj is not a row.
func Key(obj proto.Message) string {
	switch o := obj.(type) {
	case *swarmv1.Revision:
		return RevisionKey(o.GetServiceId(), o.GetNumber())
	case *swarmv1.ImageCopy:
		return o.GetDigest() + "/" + o.GetNodeId()
	case *swarmv1.NodeState:
		return o.GetNodeId()
	case *swarmv1.RaftMember:
		return o.GetNodeId()
	case *swarmv1.TaskStatus:
		return o.GetTaskId()
	case *swarmv1.Endpoint:
		return o.GetServiceId()
	case *swarmv1.Claim:
		return o.GetKey()
	case interface{ GetId() string }:
		return o.GetId()
	}
	return ""
}

// RevisionKey returns the key of a service's revision. The number is padded so that keys sort by
// revision.
func RevisionKey(serviceID string, number uint64) string {
	return fmt.Sprintf("%s/%010d", serviceID, number)
}

// unwrap returns the table and the row of an Object, or nil if this build does not know its kind.
func unwrap(o *swarmv1.Object) (TableID, Row) {
	switch k := o.GetObject().(type) {
	case *swarmv1.Object_Node:
		return TableNode, k.Node
	case *swarmv1.Object_NodeState:
		return TableNodeState, k.NodeState
	case *swarmv1.Object_Service:
		return TableService, k.Service
	case *swarmv1.Object_Revision:
		return TableRevision, k.Revision
	case *swarmv1.Object_Task:
		return TableTask, k.Task
	case *swarmv1.Object_TaskStatus:
		return TableTaskStatus, k.TaskStatus
	case *swarmv1.Object_Network:
		return TableNetwork, k.Network
	case *swarmv1.Object_Endpoint:
		return TableEndpoint, k.Endpoint
	case *swarmv1.Object_Claim:
		return TableClaim, k.Claim
	case *swarmv1.Object_Secret:
		return TableSecret, k.Secret
	case *swarmv1.Object_Config:
		return TableConfig, k.Config
	case *swarmv1.Object_Volume:
		return TableVolume, k.Volume
	case *swarmv1.Object_Image:
		return TableImage, k.Image
	case *swarmv1.Object_ImageCopy:
		return TableImageCopy, k.ImageCopy
	case *swarmv1.Object_Cluster:
		return TableCluster, k.Cluster
	case *swarmv1.Object_RaftMember:
		return TableRaftMember, k.RaftMember
	case *swarmv1.Object_Credential:
		return TableCredential, k.Credential
	}
	return 0, nil
}

// wrap returns the table of a row and an Object that contains it, or nil if obj is not a row.
func wrap(obj proto.Message) (TableID, *swarmv1.Object) {
	switch o := obj.(type) {
	case *swarmv1.Node:
		return TableNode, &swarmv1.Object{Object: &swarmv1.Object_Node{Node: o}}
	case *swarmv1.NodeState:
		return TableNodeState, &swarmv1.Object{Object: &swarmv1.Object_NodeState{NodeState: o}}
	case *swarmv1.Service:
		return TableService, &swarmv1.Object{Object: &swarmv1.Object_Service{Service: o}}
	case *swarmv1.Revision:
		return TableRevision, &swarmv1.Object{Object: &swarmv1.Object_Revision{Revision: o}}
	case *swarmv1.Task:
		return TableTask, &swarmv1.Object{Object: &swarmv1.Object_Task{Task: o}}
	case *swarmv1.TaskStatus:
		return TableTaskStatus, &swarmv1.Object{Object: &swarmv1.Object_TaskStatus{TaskStatus: o}}
	case *swarmv1.Network:
		return TableNetwork, &swarmv1.Object{Object: &swarmv1.Object_Network{Network: o}}
	case *swarmv1.Endpoint:
		return TableEndpoint, &swarmv1.Object{Object: &swarmv1.Object_Endpoint{Endpoint: o}}
	case *swarmv1.Claim:
		return TableClaim, &swarmv1.Object{Object: &swarmv1.Object_Claim{Claim: o}}
	case *swarmv1.Secret:
		return TableSecret, &swarmv1.Object{Object: &swarmv1.Object_Secret{Secret: o}}
	case *swarmv1.Config:
		return TableConfig, &swarmv1.Object{Object: &swarmv1.Object_Config{Config: o}}
	case *swarmv1.Volume:
		return TableVolume, &swarmv1.Object{Object: &swarmv1.Object_Volume{Volume: o}}
	case *swarmv1.Image:
		return TableImage, &swarmv1.Object{Object: &swarmv1.Object_Image{Image: o}}
	case *swarmv1.ImageCopy:
		return TableImageCopy, &swarmv1.Object{Object: &swarmv1.Object_ImageCopy{ImageCopy: o}}
	case *swarmv1.Cluster:
		return TableCluster, &swarmv1.Object{Object: &swarmv1.Object_Cluster{Cluster: o}}
	case *swarmv1.RaftMember:
		return TableRaftMember, &swarmv1.Object{Object: &swarmv1.Object_RaftMember{RaftMember: o}}
	case *swarmv1.Credential:
		return TableCredential, &swarmv1.Object{Object: &swarmv1.Object_Credential{Credential: o}}
	}
	return 0, nil
}

// Object wraps a row for the log and the wire. It returns nil if obj is not a row.
func Object(obj proto.Message) *swarmv1.Object {
	_, o := wrap(obj)
	return o
}
