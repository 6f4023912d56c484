package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ErrResync tells a watcher that changes were dropped before it read them, or that the whole state was replaced: take a
// view and watch anew.
var ErrResync = errors.New("watch fell behind: take a view and watch anew")

const (
	// keepChanges and keepBytes bound the changes that the broker keeps for watchers that are behind and for Since: their
	// number, and about how many bytes of memory they take.
	keepChanges = 1 << 16
	keepBytes   = 16 << 20
)

// RowChange is one row before and after: Old is nil when it was created, New when it was deleted.
type RowChange struct {
	Table    TableID
	Key      string
	Old, New proto.Message
	Index    uint64
	Time     *timestamppb.Timestamp // when the leader proposed it
}

// Batch is what happened since the watcher last asked, in order. View is the state after it, or later: a row of Changes
// may be changed again in View, and then the next batch says so.
type Batch struct {
	View    *View
	Changes []RowChange
}

// batch is one link of the list of what happened. ready is closed when next is set.
type batch struct {
	index   uint64                      // of the newest entry in it
	count   int                         // of changes
	bytes   int                         // what it costs to keep
	changes atomic.Pointer[[]RowChange] // nil once dropped, when the batch is the head
	dropped atomic.Bool                 // dropped: what it links to may be gone
	next    atomic.Pointer[batch]
	ready   chan struct{}
}

func newBatch(index uint64, changes []RowChange) *batch {
	b := &batch{index: index, count: len(changes), bytes: cost(changes), ready: make(chan struct{})}
	b.changes.Store(&changes)
	return b
}

// broker keeps the newest batches in a linked list. Watchers walk it by themselves, so a batch costs the same however
// many watch, and a slow watcher keeps no more in memory than the broker does.
type broker struct {
	tail atomic.Pointer[batch]

	mu         sync.Mutex // guards the rest, and appending
	head       *batch     // oldest; its own changes are dropped
	kept       int        // changes from head.next on
	bytes      int        // of them
	maxChanges int
}

func newBroker() *broker {
	b := &broker{maxChanges: keepChanges}
	b.head = newBatch(0, nil)
	b.tail.Store(b.head)
	return b
}

// append links a batch and wakes who waits for it.
func (b *broker) append(index uint64, changes []RowChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, changes))
	for (b.kept > b.maxChanges || b.bytes > keepBytes) && b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

// rest drops all changes. A watcher that has read them goes on, because the newest batch stays as a link
// and an empty one follows it. A watcher that has not read them gets ErrResync.
func (b *broker) dropAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	tail := b.tail.Load()
	if tail == b.head {
		return
	}
	if tail.count > 0 {
		b.appendLocked(newBatch(tail.index, nil))
	}
	for b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

const (
	// changeCost is about the memory of a change without its row, and of a batch without its changes.
	changeCost = 192
	// rowCost is about the memory that a row takes beyond its encoded size. A status of 60 bytes takes 310, and a
	// description of 104 KB in many texts 113 KB.
	rowCost = 256
)

// cost estimates the memory that changes keep. Only old rows count: a new row is in the state, and once it no longer is,
// it is the old row of a later change.
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
	// A link counts as a change too, so that empty batches are bounded as well.
	b.kept += n.count + 1
	b.bytes += n.bytes
}

// dropLocked makes the second link the head. Watchers that still stand before it are behind.
func (b *broker) dropLocked() {
	old := b.head
	b.head = old.next.Load()
	b.head.changes.Store(nil)
	b.kept -= b.head.count + 1
	b.bytes -= b.head.bytes
	old.dropped.Store(true)
	old.next.Store(nil) // so that a watcher that never comes back holds one link, not all that follow
}

// reset drops everything: the state was replaced by a snapshot.
func (b *broker) reset(index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, nil))
	for b.head != b.tail.Load() {
		b.dropLocked()
	}
}

// Watcher yields what happens in some tables, in order and without a gap. It has no goroutine: who calls Next walks.
// One goroutine at a time.
type Watcher struct {
	store  *Store
	at     *batch
	tables uint32 // bit set
	after  uint64 // changes up to this index are in the view that the watcher started from
	closed bool
}

// Watch gives a view and a watcher of every change after it. Without tables it watches all.
func (s *Store) Watch(tables ...TableID) (*View, *Watcher) {
	at := s.fsm.broker.tail.Load() // before the view: what comes between is skipped by index
	view := s.View()
	return view, &Watcher{store: s, at: at, tables: tableSet(tables), after: view.Index()}
}

// Since resumes a watch after an index that was seen before. ErrResync when that is too long ago, or yet to come.
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

// maxTaken bounds what one Next returns, so that a watcher far behind works in steps.
const maxNextChanges = 4096

// Next waits for changes in the watched tables. Errors: ErrResync, the context's, or errdefs.ErrUnavailable when the
// store closes.
func (w *Watcher) Next(ctx context.Context) (Batch, error) {
	changes, err := w.next(ctx, nil)
	if err != nil {
		return Batch{}, err
	}
	return Batch{View: w.store.View(), Changes: changes}, nil
}

// CatchUp waits until this replica has applied index, and gives what happened up to there and whatever else is there
// already: it may be nothing at all. Errors as of Next.
func (w *Watcher) CatchUp(ctx context.Context, index uint64) (Batch, error) {
	var out []RowChange
	for !w.closed {
		changes, err := w.available()
		if err != nil {
			return Batch{}, err
		}
		out = append(out, changes...)
		switch {
		case len(changes) > 0: // take works in steps
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

// next waits for changes, or for other to be closed: then there are none.
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

// take walks over what is there. It stops at the tail.
func (w *Watcher) available() (out []RowChange, err error) {
	shared := false // out is the batch's own slice
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

// Close lets go of what the watcher holds.
func (w *Watcher) Close() { w.closed, w.at = true, nil }
