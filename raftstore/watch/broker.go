package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"swarm/raftstore/table"
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

// batch is a link of the list of changes. ready is closed when next is set.
type batch struct {
	index   uint64                            // of the newest entry in the batch
	count   int                               // number of changes
	bytes   int                               // estimated memory
	changes atomic.Pointer[[]table.RowChange] // nil once dropped
	dropped atomic.Bool                       // the batches after it may be gone
	next    atomic.Pointer[batch]
	ready   chan struct{}
}

func newBatch(index uint64, changes []table.RowChange) *batch {
	b := &batch{index: index, count: len(changes), bytes: cost(changes), ready: make(chan struct{})}
	b.changes.Store(&changes)
	return b
}

// ErrClosed is returned by waits on a Broker that is closed. Its class is errdefs.ErrUnavailable.
var ErrClosed = errdefs.ErrUnavailable.WithMessage("the manager is stopping: ask another one")

// Broker publishes the newest View and keeps the newest changes that led to it, as a linked list of
// batches. Watchers walk the list themselves, so the cost of a batch does not depend on the number
// of watchers, and a slow watcher keeps no more memory in use than the broker does. One goroutine
// publishes; all other methods are safe for concurrent use.
type Broker struct {
	view   atomic.Pointer[table.View]
	tail   atomic.Pointer[batch]
	closed chan struct{}

	closeOnce sync.Once

	mu         sync.Mutex // guards the rest, and appending
	head       *batch     // oldest batch; its own changes are dropped
	kept       int        // changes and links after head
	bytes      int        // estimated memory of them
	maxChanges int
}

// NewBroker returns a Broker that has published view.
func NewBroker(view *table.View) *Broker {
	b := &Broker{closed: make(chan struct{}), maxChanges: keepChanges}
	b.view.Store(view)
	b.head = newBatch(view.Index(), nil)
	b.tail.Store(b.head)
	return b
}

// Close ends all waits with ErrClosed. View, Publish and Reset still work.
func (b *Broker) Close() { b.closeOnce.Do(func() { close(b.closed) }) }

// View returns the newest view. It does not block.
func (b *Broker) View() *table.View { return b.view.Load() }

// Publish publishes a view and then wakes the watchers. changes are the changes between the view
// that was published before and this one, in order.
func (b *Broker) Publish(view *table.View, changes []table.RowChange) {
	b.view.Store(view)
	b.append(view.Index(), changes)
}

// Reset publishes a view that was not reached by changes, but read from a snapshot. Watchers get
// ErrResync.
func (b *Broker) Reset(view *table.View) {
	b.view.Store(view)
	b.reset(view.Index())
}

// WaitIndex waits until a view with the given index or a newer one is published, and returns it. It
// fails with the error of ctx, or with ErrClosed.
func (b *Broker) WaitIndex(ctx context.Context, index uint64) (*table.View, error) {
	for {
		tail := b.tail.Load()
		view := b.View()
		if view.Index() >= index {
			return view, nil
		}
		select {
		case <-tail.ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for index %d, this manager is at %d: %w", index, b.View().Index(), ctx.Err())
		case <-b.closed:
			return nil, ErrClosed
		}
	}
}

// append appends a batch, wakes the watchers, and drops old batches beyond the bounds.
func (b *Broker) append(index uint64, changes []table.RowChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, changes))
	for (b.kept > b.maxChanges || b.bytes > keepBytes) && b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

// DropOld drops all changes but the newest, which take at most restBytes. A watcher that has read
// the dropped changes goes on. A watcher that has not read them gets ErrResync.
func (b *Broker) DropOld() {
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
func cost(changes []table.RowChange) int {
	sum := changeCost
	for i := range changes {
		sum += changeCost
		if old, ok := changes[i].Old.(interface{ SizeVT() int }); ok {
			sum += rowCost + old.SizeVT()
		}
	}
	return sum
}

func (b *Broker) appendLocked(n *batch) {
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
func (b *Broker) dropLocked() {
	old := b.head
	b.head = old.next.Load()
	b.head.changes.Store(nil)
	b.kept -= b.head.count + 1
	b.bytes -= b.head.bytes
	old.dropped.Store(true)
	old.next.Store(nil) // a watcher that never returns must not keep the later batches in memory
}

// reset drops all batches, because a snapshot has replaced the state.
func (b *Broker) reset(index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.appendLocked(newBatch(index, nil))
	for b.head != b.tail.Load() {
		b.dropLocked()
	}
}
