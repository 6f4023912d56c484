package event

import (
	"context"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// namingTables are the tables whose rows give the objects of events their names and labels.
var namingTables = []table.ID{table.Task, table.Service, table.Node, table.Revision}

// removed has the rows that were removed after a change which is still to be sent. A view may be
// newer than the change: without these rows, the events of a task whose service was removed a
// moment later would lack the name of the service, and a filter by this name would drop them.
type removed struct {
	watcher *watch.Watcher // of namingTables
	rows    map[rowKey]table.RowChange
}

type rowKey struct {
	table table.ID
	key   string
}

// catchUp adds the rows that were removed until the index.
func (r *removed) catchUp(ctx context.Context, index uint64) error {
	batch, err := r.watcher.CatchUp(ctx, index)
	if err != nil {
		return err
	}
	for _, c := range batch.Changes {
		if c.New == nil {
			r.rows[rowKey{c.Table, c.Key}] = c
		}
	}
	return nil
}

// forget drops the rows that no later change can need: those that were removed before the index.
func (r *removed) forget(index uint64) {
	for k, c := range r.rows {
		if c.Index < index {
			delete(r.rows, k)
		}
	}
}

// view returns a view in which the event of a change has its names: v, or, if a row that the change
// refers to was removed, a view of the rows to which it refers.
func (r *removed) view(v *table.View, c table.RowChange) *table.View {
	if len(r.rows) == 0 {
		return v
	}
	f := &finder{removed: r, view: v, seen: map[rowKey]bool{}}
	f.follow(c.Row())
	if !f.missing {
		return v
	}
	return table.ViewOf(f.rows...)
}

// finder collects the rows that a row refers to, from a view or from the removed ones.
type finder struct {
	*removed
	view    *table.View
	seen    map[rowKey]bool
	rows    []proto.Message
	missing bool // a row is not in the view
}

// follow collects the rows that a row refers to.
func (f *finder) follow(row proto.Message) {
	if of, ok := row.(interface{ GetTaskId() string }); ok {
		collect(f, table.Task, of.GetTaskId(), f.view.Tasks)
	}
	if of, ok := row.(interface{ GetServiceId() string }); ok {
		collect(f, table.Service, of.GetServiceId(), f.view.Services)
	}
	if of, ok := row.(interface{ GetNodeId() string }); ok {
		collect(f, table.Node, of.GetNodeId(), f.view.Nodes)
	}
	if t, ok := row.(*swarmv1.Task); ok {
		collect(f, table.Revision, table.Key(&swarmv1.Revision{ServiceId: t.GetServiceId(), Number: t.GetRevision()}), f.view.Revisions)
	}
}

func collect[T table.Row](f *finder, id table.ID, key string, rows table.Rows[T]) {
	k := rowKey{id, key}
	if key == "" || f.seen[k] {
		return
	}
	f.seen[k] = true
	row, ok := rows.Get(key)
	if ok {
		f.rows = append(f.rows, row)
		f.follow(row)
		return
	}
	if c, ok := f.removed.rows[k]; ok {
		f.missing = true
		f.rows = append(f.rows, c.Old)
		f.follow(c.Old)
	}
}
