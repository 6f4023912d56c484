package crud

import (
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Display describes how the rows of one table appear in events. Every field may be nil. The
// functions must not change the row.
type Display[T proto.Message] struct {
	// Attributes returns what an event says about the row besides its id. Events leave out empty
	// values. Nil: events have no attributes.
	Attributes func(v *table.View, row T) map[string]string
	// Subject returns what filters see of the row. An empty ID stands for the key of the row. Nil:
	// filters see only the key.
	Subject func(v *table.View, row T) Subject
	// Shown returns the row without the parts that users must not see. Nil: events show the row as
	// it is stored.
	Shown func(row T) T
}

// Events turns the changes of one table into events. EventsOf and Kind.Events make it.
type Events struct {
	// Table is the table whose changes these are.
	Table table.ID

	attributes func(v *table.View, row proto.Message) map[string]string
	subject    func(v *table.View, row proto.Message) Subject
	shown      func(row proto.Message) proto.Message
}

// EventsOf returns the Events of the table, whose rows are of the type T.
func EventsOf[T proto.Message](id table.ID, d Display[T]) Events {
	e := Events{
		Table:      id,
		attributes: func(*table.View, proto.Message) map[string]string { return nil },
		subject:    func(*table.View, proto.Message) Subject { return Subject{} },
		shown:      func(row proto.Message) proto.Message { return row },
	}
	if d.Attributes != nil {
		e.attributes = func(v *table.View, row proto.Message) map[string]string { return d.Attributes(v, row.(T)) }
	}
	if d.Subject != nil {
		e.subject = func(v *table.View, row proto.Message) Subject { return d.Subject(v, row.(T)) }
	}
	if d.Shown != nil {
		e.shown = func(row proto.Message) proto.Message { return d.Shown(row.(T)) }
	}
	return e
}

// Events returns the Events of the kind's own table.
func (k Kind[T]) Events() Events {
	return EventsOf(k.TableID, Display[T]{Attributes: k.Attributes, Subject: k.Subject, Shown: k.Shown})
}

// Type returns the name of the table in events, like "image_copy".
func (e Events) Type() string { return strings.ReplaceAll(e.Table.String(), " ", "_") }

// Subject returns what filters see of a change.
func (e Events) Subject(v *table.View, c table.RowChange) Subject {
	s := e.subject(v, c.Row())
	if s.ID == "" {
		s.ID = c.Key
	}
	return s
}

// Event returns the event of a change in the view. If object is true, the event has the row, as
// users may see it.
func (e Events) Event(v *table.View, c table.RowChange, object bool) *swarmv1.Event {
	out := &swarmv1.Event{Index: c.Index, Time: c.Time, Type: e.Type(), Id: c.Key, Attributes: e.attributes(v, c.Row())}
	maps.DeleteFunc(out.Attributes, func(_, value string) bool { return value == "" })
	if object {
		out.Object = table.Object(e.shown(c.Row()))
	}
	switch {
	case c.Old == nil:
		out.Action = swarmv1.Event_CREATE
	case c.New == nil:
		out.Action = swarmv1.Event_REMOVE
	default:
		out.Action = swarmv1.Event_UPDATE
	}
	return out
}
