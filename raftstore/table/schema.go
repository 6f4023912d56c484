package table

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// ID identifies a table. It is the field number of the row's kind in swarmv1.Object. It is
// stored in the log, so an id is never reused.
type ID uint32

// The table ids.
const (
	Node       ID = 1
	NodeState  ID = 2
	Service    ID = 3
	Revision   ID = 4
	Task       ID = 5
	TaskStatus ID = 6
	Network    ID = 7
	Endpoint   ID = 8
	Claim      ID = 9
	Secret     ID = 10
	Config     ID = 11
	Volume     ID = 12
	Image      ID = 13
	ImageCopy  ID = 14
	Cluster    ID = 15
	RaftMember ID = 16
	Credential ID = 17

	tables = 18 // highest id + 1
)

var tableNames = [tables]string{
	"", "node", "node state", "service", "revision", "task", "task status", "network", "endpoint", "claim", "secret",
	"config", "volume", "image", "image copy", "cluster", "raft member", "credential",
}

// String returns the name of one row of the table, as used in messages.
func (t ID) String() string {
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

// schema describes one kind of row. To add a kind, add its message to object.proto, a ID, and
// a schema to newState.
type schema[T Row] struct {
	id      ID
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
func unwrap(o *swarmv1.Object) (ID, Row) {
	switch k := o.GetObject().(type) {
	case *swarmv1.Object_Node:
		return Node, k.Node
	case *swarmv1.Object_NodeState:
		return NodeState, k.NodeState
	case *swarmv1.Object_Service:
		return Service, k.Service
	case *swarmv1.Object_Revision:
		return Revision, k.Revision
	case *swarmv1.Object_Task:
		return Task, k.Task
	case *swarmv1.Object_TaskStatus:
		return TaskStatus, k.TaskStatus
	case *swarmv1.Object_Network:
		return Network, k.Network
	case *swarmv1.Object_Endpoint:
		return Endpoint, k.Endpoint
	case *swarmv1.Object_Claim:
		return Claim, k.Claim
	case *swarmv1.Object_Secret:
		return Secret, k.Secret
	case *swarmv1.Object_Config:
		return Config, k.Config
	case *swarmv1.Object_Volume:
		return Volume, k.Volume
	case *swarmv1.Object_Image:
		return Image, k.Image
	case *swarmv1.Object_ImageCopy:
		return ImageCopy, k.ImageCopy
	case *swarmv1.Object_Cluster:
		return Cluster, k.Cluster
	case *swarmv1.Object_RaftMember:
		return RaftMember, k.RaftMember
	case *swarmv1.Object_Credential:
		return Credential, k.Credential
	}
	return 0, nil
}

// wrap returns the table of a row and an Object that contains it, or nil if obj is not a row.
func wrap(obj proto.Message) (ID, *swarmv1.Object) {
	switch o := obj.(type) {
	case *swarmv1.Node:
		return Node, &swarmv1.Object{Object: &swarmv1.Object_Node{Node: o}}
	case *swarmv1.NodeState:
		return NodeState, &swarmv1.Object{Object: &swarmv1.Object_NodeState{NodeState: o}}
	case *swarmv1.Service:
		return Service, &swarmv1.Object{Object: &swarmv1.Object_Service{Service: o}}
	case *swarmv1.Revision:
		return Revision, &swarmv1.Object{Object: &swarmv1.Object_Revision{Revision: o}}
	case *swarmv1.Task:
		return Task, &swarmv1.Object{Object: &swarmv1.Object_Task{Task: o}}
	case *swarmv1.TaskStatus:
		return TaskStatus, &swarmv1.Object{Object: &swarmv1.Object_TaskStatus{TaskStatus: o}}
	case *swarmv1.Network:
		return Network, &swarmv1.Object{Object: &swarmv1.Object_Network{Network: o}}
	case *swarmv1.Endpoint:
		return Endpoint, &swarmv1.Object{Object: &swarmv1.Object_Endpoint{Endpoint: o}}
	case *swarmv1.Claim:
		return Claim, &swarmv1.Object{Object: &swarmv1.Object_Claim{Claim: o}}
	case *swarmv1.Secret:
		return Secret, &swarmv1.Object{Object: &swarmv1.Object_Secret{Secret: o}}
	case *swarmv1.Config:
		return Config, &swarmv1.Object{Object: &swarmv1.Object_Config{Config: o}}
	case *swarmv1.Volume:
		return Volume, &swarmv1.Object{Object: &swarmv1.Object_Volume{Volume: o}}
	case *swarmv1.Image:
		return Image, &swarmv1.Object{Object: &swarmv1.Object_Image{Image: o}}
	case *swarmv1.ImageCopy:
		return ImageCopy, &swarmv1.Object{Object: &swarmv1.Object_ImageCopy{ImageCopy: o}}
	case *swarmv1.Cluster:
		return Cluster, &swarmv1.Object{Object: &swarmv1.Object_Cluster{Cluster: o}}
	case *swarmv1.RaftMember:
		return RaftMember, &swarmv1.Object{Object: &swarmv1.Object_RaftMember{RaftMember: o}}
	case *swarmv1.Credential:
		return Credential, &swarmv1.Object{Object: &swarmv1.Object_Credential{Credential: o}}
	}
	return 0, nil
}

// Object wraps a row for the log and the wire. It returns nil if obj is not a row.
func Object(obj proto.Message) *swarmv1.Object {
	_, o := wrap(obj)
	return o
}
