package watch

import (
	"context"
	"time"

	"swarm/raftstore/table"
)

// Batch holds the changes since the previous call of Next, in order. View includes these changes
// and maybe later ones, which the next batch reports.
type Batch struct {
	View    *table.View
	Changes []table.RowChange
}

// Watcher yields the changes of some tables, in order and without gaps. It has no goroutine. Only
// one goroutine may use it at a time.
type Watcher struct {
	broker *Broker
	at     *batch
	tables uint32 // bit set of table.IDs
	after  uint64 // changes up to this index are skipped: the caller has a View that includes them
	closed bool
}

// Watch returns a view and a watcher of all changes after it. Without tables it watches all tables.
func (b *Broker) Watch(tables ...table.ID) (*table.View, *Watcher) {
	// Take the position before the view, so that no change is missed between the two. available
	// skips the changes that the view includes already.
	at := b.tail.Load()
	view := b.View()
	return view, &Watcher{broker: b, at: at, tables: tableSet(tables), after: view.Index()}
}

// Since returns a watcher of the changes after index, which is the index of an earlier View. It
// returns ErrResync if these changes are no longer kept, or if index is newer than this replica.
func (b *Broker) Since(index uint64, tables ...table.ID) (*Watcher, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if index < b.head.index || index > b.tail.Load().index {
		return nil, ErrResync
	}
	at := b.head
	for n := at.next.Load(); n != nil && n.index <= index; n = n.next.Load() {
		at = n
	}
	return &Watcher{broker: b, at: at, tables: tableSet(tables), after: index}, nil
}

func tableSet(ids []table.ID) uint32 {
	if len(ids) == 0 {
		return ^uint32(0)
	}
	set := uint32(0)
	for _, t := range ids {
		set |= 1 << t
	}
	return set
}

// maxNextChanges is the approximate limit for the changes that one Next returns, so that a slow
// watcher catches up in steps.
const maxNextChanges = 4096

// Next waits for changes in the watched tables. It fails with ErrResync, the error of ctx, or
// ErrClosed if the broker or the watcher is closed.
func (w *Watcher) Next(ctx context.Context) (Batch, error) { return w.NextOr(ctx, nil) }

// NextOr is like Next. It also returns when other is closed, with a batch without changes.
func (w *Watcher) NextOr(ctx context.Context, other <-chan struct{}) (Batch, error) {
	changes, err := w.next(ctx, other)
	if err != nil {
		return Batch{}, err
	}
	return Batch{View: w.broker.View(), Changes: changes}, nil
}

// NextBefore is like Next. It also returns at the given time, with a batch without changes and
// without a view. Zero: there is no such time.
func (w *Watcher) NextBefore(ctx context.Context, at time.Time) (Batch, error) {
	if at.IsZero() {
		return w.Next(ctx)
	}
	bounded, cancel := context.WithDeadline(ctx, at)
	defer cancel()
	batch, err := w.Next(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return Batch{}, nil
	}
	return batch, err
}

// Earliest returns the earlier of a time for NextBefore, which may be zero, and a time that is not
// zero.
func Earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// CatchUp waits until this replica has applied index, and returns all changes up to it and any
// later ones that are already available. The batch may have no changes. CatchUp fails as Next does.
func (w *Watcher) CatchUp(ctx context.Context, index uint64) (Batch, error) {
	var out []table.RowChange
	for !w.closed {
		changes, err := w.available()
		if err != nil {
			return Batch{}, err
		}
		out = append(out, changes...)
		switch {
		case len(changes) > 0: // available returns changes in steps
			continue
		case max(w.at.index, w.after) >= index:
			return Batch{View: w.broker.View(), Changes: out}, nil
		}
		select {
		case <-w.at.ready:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-w.broker.closed:
			return Batch{}, ErrClosed
		}
	}
	return Batch{}, ErrClosed
}

// next waits for changes. If other is closed first, it returns none.
func (w *Watcher) next(ctx context.Context, other <-chan struct{}) ([]table.RowChange, error) {
	for !w.closed {
		changes, err := w.available()
		if err != nil || len(changes) > 0 {
			return changes, err
		}
		select {
		case <-w.at.ready:
		case <-other:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.broker.closed:
			return nil, ErrClosed
		}
	}
	return nil, ErrClosed
}

// available returns changes that the watcher has not read yet, without waiting.
func (w *Watcher) available() (out []table.RowChange, err error) {
	// shared says that out is the slice of a batch. Copy it before an append, because other
	// watchers read it too.
	shared := false
	for len(out) < maxNextChanges {
		next := w.at.next.Load()
		if w.at.nextDropped.Load() {
			return nil, ErrResync
		}
		if next == nil {
			return out, nil
		}
		changes := next.changes.Load()
		if changes == nil {
			return nil, ErrResync
		}
		w.at = next
		if next.index <= w.after {
			continue
		}
		if out == nil && w.wantsAll(*changes) {
			out, shared = *changes, true
			continue
		}
		for i := range *changes {
			if c := &(*changes)[i]; w.wants(c) {
				if shared {
					out, shared = append(make([]table.RowChange, 0, len(out)+len(*changes)), out...), false
				}
				out = append(out, *c)
			}
		}
	}
	return out, nil
}

func (w *Watcher) wants(c *table.RowChange) bool {
	return w.tables&(1<<c.Table) != 0 && c.Index > w.after
}

func (w *Watcher) wantsAll(changes []table.RowChange) bool {
	for i := range changes {
		if !w.wants(&changes[i]) {
			return false
		}
	}
	return len(changes) > 0
}

// Close releases the batches that the watcher refers to. Later calls of Next fail.
func (w *Watcher) Close() { w.closed, w.at = true, nil }
