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
	// Of is the type of the events, if the table is a part of the objects of another one, as states
	// are of nodes. They report neither creation nor removal, because the events of the other table
	// do. "": the events have the name of the table.
	Of string
	// Detail says that users get the events only if they ask for their type.
	Detail bool
	// Changed returns what an event says about the difference of two rows. Nil: nothing.
	Changed func(old, row T) map[string]string
	// Action returns the action of the event of an update, which is UPDATE if Action is nil. old is
	// the zero value if the row was created.
	Action func(old, row T) swarmv1.Event_Action
}

// Events turns the changes of one table into events. EventsOf and Kind.Events make it.
type Events struct {
	// Table is the table whose changes these are.
	Table table.ID

	attributes func(v *table.View, row proto.Message) map[string]string
	subject    func(v *table.View, row proto.Message) Subject
	shown      func(row proto.Message) proto.Message
	changed    func(old, row proto.Message) map[string]string
	action     func(old, row proto.Message) swarmv1.Event_Action
	of         string
	// Detail says that users get the events only if they ask for their type.
	Detail bool
}

// EventsOf returns the Events of the table, whose rows are of the type T.
func EventsOf[T proto.Message](id table.ID, d Display[T]) Events {
	e := Events{
		Table:      id,
		attributes: func(*table.View, proto.Message) map[string]string { return nil },
		subject:    func(*table.View, proto.Message) Subject { return Subject{} },
		shown:      func(row proto.Message) proto.Message { return row },
		changed:    func(_, _ proto.Message) map[string]string { return nil },
		action:     func(_, _ proto.Message) swarmv1.Event_Action { return swarmv1.Event_UPDATE },
		of:         d.Of, Detail: d.Detail,
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
	if d.Changed != nil {
		e.changed = func(old, row proto.Message) map[string]string { return d.Changed(old.(T), row.(T)) }
	}
	if d.Action != nil {
		e.action = func(old, row proto.Message) swarmv1.Event_Action {
			before, _ := old.(T) // old is nil if the row was created.
			return d.Action(before, row.(T))
		}
	}
	return e
}

// Events returns the Events of the kind's own table.
func (k Kind[T]) Events() Events {
	return EventsOf(k.TableID, Display[T]{Attributes: k.Attributes, Subject: k.Subject, Shown: k.Shown, Changed: k.Changed})
}

// Type returns the type of the events, like "node" or "image_copy".
func (e Events) Type() string {
	if e.of != "" {
		return e.of
	}
	return strings.ReplaceAll(e.Table.String(), " ", "_")
}

// Subject returns what filters see of a change.
func (e Events) Subject(v *table.View, c table.RowChange) Subject {
	s := e.subject(v, c.Row())
	if s.ID == "" {
		s.ID = c.Key
	}
	return s
}

// Event returns the event of a change in the view, or nil if the events of another table report
// the change. If object is true, the event has the row, as users may see it.
func (e Events) Event(v *table.View, c table.RowChange, object bool) *swarmv1.Event {
	if e.of != "" && c.New == nil {
		return nil
	}
	out := &swarmv1.Event{Index: c.Index, Time: c.Time, Type: e.Type(), Id: c.Key, Attributes: e.attributes(v, c.Row())}
	switch {
	case c.New == nil:
		out.Action = swarmv1.Event_REMOVE
	case c.Old == nil && e.of == "":
		out.Action = swarmv1.Event_CREATE
	default:
		out.Action = e.action(c.Old, c.New)
	}
	if c.Old != nil && c.New != nil {
		changed := e.changed(c.Old, c.New)
		if out.Attributes == nil {
			out.Attributes = make(map[string]string, len(changed))
		}
		maps.Copy(out.Attributes, changed)
	}
	maps.DeleteFunc(out.Attributes, func(_, value string) bool { return value == "" })
	if object {
		out.Object = table.Object(e.shown(c.Row()))
	}
	return out
}

// Difference returns the attributes KEY.old and KEY.new, as Docker calls them, or none if the
// values are equal.
func Difference[T interface {
	comparable
	String() string
}](key string, old, now T) map[string]string {
	a := map[string]string{}
	if old != now {
		a[key+".old"], a[key+".new"] = strings.ToLower(old.String()), strings.ToLower(now.String())
	}
	return a
}
