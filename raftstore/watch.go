package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ErrResync means that a watcher missed changes: the store dropped them before the watcher read
// them, or a snapshot replaced the state. Take a new view and start a new watch.
var ErrResync = errors.New("watch fell behind: take a view and watch anew")

const (
	// keepChanges and keepBytes bound the changes that the broker keeps for slow watchers and for
	// Since: their number, and their approximate memory in bytes.
	keepChanges = 1 << 16
	keepBytes   = 16 << 20
	// restBytes of them stay at rest, for clients that come back after a short time.
	restBytes = 64 << 10
)

// RowChange is a change of one row. Old is nil if the row was created, and New is nil if it was
// deleted.
type RowChange struct {
	Table    TableID
	Key      string
	Old, New proto.Message
	Index    uint64
	Time     *timestamppb.Timestamp // when the leader proposed the change
}

// Batch holds the changes since the previous call of Next, in order. View includes these changes
// and maybe later ones, which the next batch reports.
type Batch struct {
	View    *View
	Changes []RowChange
}

// batch is a link of the list of changes. ready is closed when next is set.
type batch struct {
	index   uint64                      // of the newest entry in the batch
	count   int                         // number of changes
	bytes   int                         // estimated memory
	changes atomic.Pointer[[]RowChange] // nil once dropped
	dropped atomic.Bool                 // the batches after it may be gone
	next    atomic.Pointer[batch]
	ready   chan struct{}
}

func newBatch(index uint64, changes []RowChange) *batch {
	b := &batch{index: index, count: len(changes), bytes: cost(changes), ready: make(chan struct{})}
	b.changes.Store(&changes)
	return b
}

// broker keeps the newest batches in a linked list. Watchers walk the list themselves, so the cost
// of a batch does not depend on the number of watchers, and a slow watcher keeps no more memory in
// use than the broker does.
type broker struct {
	tail atomic.Pointer[batch]

	mu         sync.Mutex // guards the rest, and appending
	head       *batch     // oldest batch; its own changes are dropped
	kept       int        // changes and links after head
	bytes      int        // estimated memory of them
	maxChanges int
}

func newBroker() *broker {
	b := &broker{maxChanges: keepChanges}
	b.head = newBatch(0, nil)
	b.tail.Store(b.head)
	return b
}

// append appends a batch, wakes the watchers, and drops old batches beyond the bounds.
func (b *broker) append(index uint64, changes []RowChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, changes))
	for (b.kept > b.maxChanges || b.bytes > keepBytes) && b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

// dropOld drops all changes but the newest, which take at most restBytes. A watcher that has read
// the dropped changes goes on. A watcher that has not read them gets ErrResync.
func (b *broker) dropOld() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if tail := b.tail.Load(); tail != b.head && tail.bytes > restBytes {
		b.appendLocked(newBatch(tail.index, nil)) // so that the newest batch may be dropped, too
	}
	for b.bytes > restBytes && b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

const (
	// changeCost is the approximate memory of a change without its row, and of a batch without its
	// changes.
	changeCost = 192
	// rowCost is the approximate memory of a row beyond its encoded size. A status of 60 encoded
	// bytes takes 310 bytes, and a node description of 104 KB with many strings takes 113 KB.
	rowCost = 256
)

// cost estimates the memory that a batch keeps in use. It counts only old rows: a new row belongs
// to the state, and when it leaves the state, it is the old row of a later change.
func cost(changes []RowChange) int {
	sum := changeCost
	for i := range changes {
		sum += changeCost
		if old, ok := changes[i].Old.(interface{ SizeVT() int }); ok {
			sum += rowCost + old.SizeVT()
		}
	}
	return sum
}

func (b *broker) appendLocked(n *batch) {
	old := b.tail.Load()
	old.next.Store(n)
	b.tail.Store(n)
	close(old.ready)
	// Every link counts as a change, so that empty batches are bounded too.
	b.kept += n.count + 1
	b.bytes += n.bytes
}

// dropLocked drops the changes of the second batch and makes it the head. Watchers that are still
// before it have missed changes.
func (b *broker) dropLocked() {
	old := b.head
	b.head = old.next.Load()
	b.head.changes.Store(nil)
	b.kept -= b.head.count + 1
	b.bytes -= b.head.bytes
	old.dropped.Store(true)
	old.next.Store(nil) // a watcher that never returns must not keep the later batches in memory
}

// reset drops all batches, because a snapshot has replaced the state.
func (b *broker) reset(index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, nil))
	for b.head != b.tail.Load() {
		b.dropLocked()
	}
}

// Watcher yields the changes of some tables, in order and without gaps. It has no goroutine. Only
// one goroutine may use it at a time.
type Watcher struct {
	store  *Store
	at     *batch
	tables uint32 // bit set of TableIDs
	after  uint64 // changes up to this index are in the view that Watch returned
	closed bool
}

// Watch returns a view and a watcher of all changes after it. Without tables it watches all tables.
func (s *Store) Watch(tables ...TableID) (*View, *Watcher) {
	// The position is taken before the view. available skips changes that the view includes.
	at := s.fsm.broker.tail.Load()
	view := s.View()
	return view, &Watcher{store: s, at: at, tables: tableSet(tables), after: view.Index()}
}

// Since returns a watcher of the changes after index, which an earlier view or batch reported. It
// returns ErrResync if those changes are no longer kept, or if index is newer than this replica.
func (s *Store) Since(index uint64, tables ...TableID) (*Watcher, error) {
	b := s.fsm.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if index < b.head.index || index > b.tail.Load().index {
		return nil, ErrResync
	}
	at := b.head
	for n := at.next.Load(); n != nil && n.index <= index; n = n.next.Load() {
		at = n
	}
	return &Watcher{store: s, at: at, tables: tableSet(tables), after: index}, nil
}

func tableSet(ids []TableID) uint32 {
	if len(ids) == 0 {
		return ^uint32(0)
	}
	set := uint32(0)
	for _, t := range ids {
		set |= 1 << t
	}
	return set
}

// maxNextChanges is about the number of changes that one Next returns, so that a slow watcher
// catches up in steps.
const maxNextChanges = 4096

// Next waits for changes in the watched tables. It fails with ErrResync, the error of ctx, or
// errdefs.ErrUnavailable if the store or the watcher is closed.
func (w *Watcher) Next(ctx context.Context) (Batch, error) {
	changes, err := w.next(ctx, nil)
	if err != nil {
		return Batch{}, err
	}
	return Batch{View: w.store.View(), Changes: changes}, nil
}

// CatchUp waits until this replica has applied index, and returns all changes up to it and any
// later ones that are already available. The batch may have no changes. CatchUp fails as Next does.
func (w *Watcher) CatchUp(ctx context.Context, index uint64) (Batch, error) {
	var out []RowChange
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
			return Batch{View: w.store.View(), Changes: out}, nil
		}
		select {
		case <-w.at.ready:
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-w.store.closed:
			return Batch{}, errClosed
		}
	}
	return Batch{}, errClosed
}

// next waits for changes. If other is closed first, it returns none.
func (w *Watcher) next(ctx context.Context, other <-chan struct{}) ([]RowChange, error) {
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
		case <-w.store.closed:
			return nil, errClosed
		}
	}
	return nil, errClosed
}

// available returns changes that the watcher has not read yet, without waiting.
func (w *Watcher) available() (out []RowChange, err error) {
	shared := false // out is a slice that belongs to a batch
	for len(out) < maxNextChanges {
		next := w.at.next.Load()
		if w.at.dropped.Load() {
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
					out, shared = append(make([]RowChange, 0, len(out)+len(*changes)), out...), false
				}
				out = append(out, *c)
			}
		}
	}
	return out, nil
}

func (w *Watcher) wants(c *RowChange) bool { return w.tables&(1<<c.Table) != 0 && c.Index > w.after }

func (w *Watcher) wantsAll(changes []RowChange) bool {
	for i := range changes {
		if !w.wants(&changes[i]) {
			return false
		}
	}
	return len(changes) > 0
}

// Close releases the batches that the watcher refers to. Later calls of Next fail.
func (w *Watcher) Close() { w.closed, w.at = true, nil }
