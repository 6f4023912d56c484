package table

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// RowChange is a change of one row. Old is nil if the row was created, and New is nil if it was
// deleted.
type RowChange struct {
	Table    ID
	Key      string
	Old, New proto.Message
	Index    uint64
	Time     *timestamppb.Timestamp // when the leader proposed the change
}

// Row returns the row after the change, or the deleted row if the change deleted it.
func (c RowChange) Row() proto.Message {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// Create writes obj if no row with its key exists.
func Create(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfAbsent{IfAbsent: true}, Op: put(obj)}
}

// Update writes obj if the stored row still has the version in obj's Meta.
func Update(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: ifVersion(obj), Op: put(obj)}
}

// Put writes obj without a precondition. Use it only for rows with one writer.
func Put(obj proto.Message) *swarmv1.Change { return &swarmv1.Change{Op: put(obj)} }

// Touch writes obj as it was read, if its row still exists. It only changes the version of the row,
// so a concurrent Delete, which names the old version, is refused. Several concurrent Touches of a
// row all succeed. Touch would undo an edit that was committed after the read. So use it only for
// rows that are never edited, like those of networks.
func Touch(obj proto.Message) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfPresent{IfPresent: true}, Op: put(obj)}
}

// Delete removes the row of obj if the stored row still has the version in obj's Meta.
func Delete(obj proto.Message) *swarmv1.Change {
	table, _ := wrap(obj)
	return &swarmv1.Change{Precondition: ifVersion(obj), Op: del(table, Key(obj))}
}

// DeleteKey removes the row with the key, whatever its version. It does nothing if there is no such
// row.
func DeleteKey(table ID, key string) *swarmv1.Change {
	return &swarmv1.Change{Op: del(table, key)}
}

// Report writes a task status if a status of the task is stored and has a lower (session epoch,
// sequence) pair.
func Report(st *swarmv1.TaskStatus) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfNewer{IfNewer: true}, Op: put(st)}
}

// Group combines changes that are applied all together or not at all.
func Group(changes ...*swarmv1.Change) *swarmv1.Group { return &swarmv1.Group{Changes: changes} }

func put(obj proto.Message) *swarmv1.Change_Put { return &swarmv1.Change_Put{Put: Object(obj)} }

func del(table ID, key string) *swarmv1.Change_Delete {
	return &swarmv1.Change_Delete{Delete: &swarmv1.ObjectRef{Table: uint32(table), Key: key}}
}

func ifVersion(obj proto.Message) *swarmv1.Change_IfVersion {
	row, _ := obj.(Row)
	if row == nil {
		return &swarmv1.Change_IfVersion{}
	}
	return &swarmv1.Change_IfVersion{IfVersion: row.GetMeta().GetVersion()}
}

// Validate returns errdefs.ErrInvalidArgument if Apply cannot execute the change. Call it before a
// proposal, so that an invalid change never enters the log. An invalid change in the log makes
// Apply return an error, which halts the member.
func Validate(c *swarmv1.Change) error {
	var table ID
	switch op := c.GetOp().(type) {
	case *swarmv1.Change_Put:
		var row Row
		if table, row = unwrap(op.Put); row == nil {
			return invalid("a change puts an object of an unknown table")
		}
		if Key(row) == "" {
			return invalid("a change puts a %s without a key", table)
		}
	case *swarmv1.Change_Delete:
		if table = ID(op.Delete.GetTable()); table == 0 || table >= idLimit || titles[table] == "" {
			return invalid("a change deletes from unknown table %d", op.Delete.GetTable())
		}
		if op.Delete.GetKey() == "" {
			return invalid("a change deletes a %s without a key", table)
		}
	default:
		return invalid("a change neither puts nor deletes")
	}
	if c.GetIfNewer() && (table != TaskStatus || c.GetPut() == nil) {
		return invalid("a change of a %s has the precondition if_newer; only task statuses can have it", table)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
