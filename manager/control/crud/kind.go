package crud

import (
	"fmt"
	"iter"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Object is a stored row that users refer to by its id.
type Object interface {
	table.Row
	GetId() string
}

// Row is an Object that can be copied and compared, as the generated messages can.
type Row[T any] interface {
	Object
	CloneVT() T
	EqualVT(other T) bool
}

// Kind describes one kind of objects. Its functions must not change what they are given.
type Kind[T Row[T]] struct {
	// Word is what users call one object, like "network". Log lines have the id of the object under
	// this key.
	Word string
	// ListCommand is the command that lists the objects, for messages.
	ListCommand string
	// Table returns the table of the objects, and TableID is its id.
	Table   func(v *table.View) table.Rows[T]
	TableID table.ID
	// Name returns the name of an object as users see it.
	Name func(v *table.View, row T) string
	// ByName yields the objects that a name refers to. It decides whether case matters.
	ByName func(v *table.View, name string) iter.Seq[T]
	// ByOtherID and ByOtherPrefix are for objects that have a second id besides the key of their
	// row, as an image has its digest. Nil: the objects have none. ByOtherID yields the objects
	// with the second id ref, and ByOtherPrefix those whose second id begins with ref.
	ByOtherID, ByOtherPrefix func(v *table.View, ref string) iter.Seq[T]
	// Subject returns what filters see of an object.
	Subject func(v *table.View, row T) Subject
	// Attributes, Shown and Changed say how an object appears in events (see Display).
	Attributes func(v *table.View, row T) map[string]string
	Shown      func(row T) T
	Changed    func(old, row T) map[string]string
	// Compare orders lists. Nil: by id.
	Compare func(a, b T) int

	// Taken returns the message of the error that refuses a name because other has the same name.
	// Nil: a general message.
	Taken func(name string, other T) string
	// Remedy is what users can do about a taken name besides choosing another one, for messages.
	Remedy string
	// Claims returns the keys of the claims that an object holds. Remove deletes them. Nil: none.
	Claims func(v *table.View, row T) []string
	// Mark, if not nil, marks a copy of an object for removal. The planner deletes the row later.
	// If Mark is set, the next two fields must be set too.
	Mark func(row T)
	// Marked reports whether an object is marked for removal.
	Marked func(row T) bool
	// Awaits returns the condition for which the removal of an object waits, for messages: "its
	// tasks have stopped".
	Awaits func(row T) string
}

func (k Kind[T]) marked(row T) bool { return k.Marked != nil && k.Marked(row) }

// CheckNameFree returns an error if an object has the name: ErrAlreadyExists, or a PendingRemoval
// if the object is being removed.
func (k Kind[T]) CheckNameFree(v *table.View, name string) error {
	for other := range k.ByName(v, name) {
		had := k.Name(v, other)
		switch {
		case k.marked(other):
			return k.PendingRemoval(fmt.Sprintf("%s %s is still being removed: try again when %s", k.Word, had, k.Awaits(other)), other.GetId())
		case had != name:
			return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
				"%s name %s differs only in case from that of %s %s (%s), and DNS knows no case: choose another name%s",
				k.Word, name, k.Word, had, other.GetId(), k.Remedy))
		case k.Taken != nil:
			return errdefs.ErrAlreadyExists.WithMessage(k.Taken(name, other))
		}
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
			"%s name %s is already taken by %s %s: choose another name%s", k.Word, name, k.Word, other.GetId(), k.Remedy))
	}
	return nil
}

// CheckVersion returns ErrAborted if want is not 0 and not have, the version of the row that is
// stored now. word is the kind of the object, and name is what the user calls it.
func CheckVersion(word, name string, want, have uint64) error {
	if want == 0 || want == have {
		return nil
	}
	return errdefs.ErrAborted.WithMessage(fmt.Sprintf(
		"%s %s was changed meanwhile (version %d, yours is %d): look at it again and repeat", word, name, have, want))
}

// claimsOf returns the changes that delete the claims of an object.
func (k Kind[T]) claimsOf(v *table.View, row T) (changes []*swarmv1.Change) {
	if k.Claims == nil {
		return nil
	}
	for _, key := range k.Claims(v, row) {
		changes = append(changes, table.DeleteKey(table.Claim, key))
	}
	return changes
}
