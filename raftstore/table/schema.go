package table

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
)

//go:generate go run ./gen

// ID identifies a table. It is the field number of the row's kind in swarmv1.Object. It is stored
// in the log, so an id is never reused.
type ID uint32

// String returns the name of one row of the table, as used in messages.
func (t ID) String() string {
	if t > 0 && t < idLimit {
		return titles[t]
	}
	return fmt.Sprintf("table %d", uint32(t))
}

// Row is a stored object. Rows in a View are read-only.
type Row interface {
	proto.Message
	GetMeta() *swarmv1.Meta
}

// schema describes one kind of row. The generator makes it from the table tag in View.
type schema[T Row] struct {
	id      ID
	key     func(T) string
	setMeta func(T, *swarmv1.Meta)
	// name returns the row's unique name as it was given; "" means that the row has none. If name
	// is nil, the kind has no unique names.
	name func(T) string
	// fold returns the form in which names are compared.
	fold func(string) string
}

// Object wraps a row for the log and the wire. It returns nil if obj is not a row.
func Object(obj proto.Message) *swarmv1.Object {
	_, o := wrap(obj)
	return o
}
