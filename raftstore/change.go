package raftstore

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

// Create writes a row that must not exist yet.
func Create(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfAbsent{IfAbsent: true}, Op: put(obj)}
}

// Update writes a row that must still have the version that obj was read with.
func Update(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: ifVersion(obj), Op: put(obj)}
}

// Put writes a row whatever is there. Only for rows with one writer.
func Put(obj proto.Message) *swarmv1.Change { return &swarmv1.Change{Op: put(obj)} }

// Touch writes a row as it was read, provided that it is still there. Others may touch it at the same time; who deletes it
// by its version meanwhile is refused. Only for rows that do not change otherwise.
func Touch(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfPresent{IfPresent: true}, Op: put(obj)}
}

// Delete removes a row that must still have the version that obj was read with.
func Delete(obj proto.Message) *swarmv1.Change {
	table, _ := wrap(obj)
	return &swarmv1.Change{Precondition: ifVersion(obj), Op: del(table, Key(obj))}
}

// DeleteKey removes a row whatever its version. That there is none is no error.
func DeleteKey(table TableID, key string) *swarmv1.Change {
	return &swarmv1.Change{Op: del(table, key)}
}

// Report writes a task status that must exist and be older: (session epoch, sequence) only grows.
func Report(st *swarmv1.TaskStatus) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfNewer{IfNewer: true}, Op: put(st)}
}

// Group makes a group of changes, which are applied all or none.
func Group(changes ...*swarmv1.Change) *swarmv1.Group { return &swarmv1.Group{Changes: changes} }

func put(obj proto.Message) *swarmv1.Change_Put { return &swarmv1.Change_Put{Put: Object(obj)} }

func del(table TableID, key string) *swarmv1.Change_Delete {
	return &swarmv1.Change_Delete{Delete: &swarmv1.ObjectRef{Table: uint32(table), Key: key}}
}

func ifVersion(obj proto.Message) *swarmv1.Change_IfVersion {
	row, _ := obj.(Row)
	if row == nil {
		return &swarmv1.Change_IfVersion{}
	}
	return &swarmv1.Change_IfVersion{IfVersion: row.GetMeta().GetVersion()}
}

// valid says whether Apply can judge the change. The proposer asks, so that nonsense never reaches the log; Apply asks
// again, and stops the member when the answer has changed on the way.
func valid(c *swarmv1.Change) error {
	var table TableID
	switch op := c.GetOp().(type) {
	case *swarmv1.Change_Put:
		var row Row
		if table, row = unwrap(op.Put); row == nil {
			return invalid("a change puts an object of no known table")
		}
		if Key(row) == "" {
			return invalid("a change puts a %s without a key", table)
		}
	case *swarmv1.Change_Delete:
		if table = TableID(op.Delete.GetTable()); table == 0 || table >= tables {
			return invalid("a change deletes from unknown table %d", op.Delete.GetTable())
		}
		if op.Delete.GetKey() == "" {
			return invalid("a change deletes a %s without a key", table)
		}
	default:
		return invalid("a change neither puts nor deletes")
	}
	if c.GetIfNewer() && (table != TableTaskStatus || c.GetPut() == nil) {
		return invalid("a change of a %s asks for a newer report; only task statuses have them", table)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
