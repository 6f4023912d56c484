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

// ErrResync means that a watcher has missed changes: the broker dropped them before the watcher
// read them, or a snapshot replaced the state. The caller must call Watch again and start from its
// view.
var ErrResync = errors.New("watch fell behind: take a view and watch anew")

const (
	// keepChanges and keepBytes bound the changes that the broker keeps for slow watchers and for
	// Since: their number, and their approximate memory in bytes.
	keepChanges = 1 << 16
	keepBytes   = 16 << 20
	// idleBytes is the bound that DropOld uses when the manager is idle. The changes that remain
	// are for clients that reconnect after a short time.
	idleBytes = 64 << 10
)

// batch is an element of the linked list of changes.
type batch struct {
	index   uint64                            // index of the newest log entry in the batch
	count   int                               // number of changes
	bytes   int                               // estimated memory
	changes atomic.Pointer[[]table.RowChange] // nil after the broker has dropped them
	next    atomic.Pointer[batch]
	ready   chan struct{} // closed when next is set
	// nextDropped says that the broker has dropped the changes of the next batch, and has set next
	// to nil.
	nextDropped atomic.Bool
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

	mu         sync.Mutex // guards the rest; also held to append a batch
	head       *batch     // a batch without changes; the kept batches follow it, oldest first
	kept       int        // number of kept changes, plus the number of their batches
	bytes      int        // estimated memory of the kept changes
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

// Reset publishes a view that was read from a snapshot. The changes between the last view and this
// one are not known, so all watchers get ErrResync.
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
	b.dropWhileLocked(func() bool { return b.kept > b.maxChanges || b.bytes > keepBytes })
}

// DropOld drops the oldest changes until the others take at most idleBytes. A watcher that has
// already read the dropped changes does not notice. A watcher that has not read them gets
// ErrResync.
func (b *Broker) DropOld() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if tail := b.tail.Load(); tail != b.head && tail.bytes > idleBytes {
		// dropWhileLocked never drops the newest batch. Make an empty batch the newest one, so that
		// it can drop the large batch.
		b.appendLocked(newBatch(tail.index, nil))
	}
	b.dropWhileLocked(func() bool { return b.bytes > idleBytes })
}

const (
	// changeCost is the approximate memory of a change without its row, and of a batch without its
	// changes.
	changeCost = 192
	// rowCost is the approximate memory of a row beyond its encoded size. A status of 60 encoded
	// bytes takes 310 bytes, and a node description of 104 KB with many strings takes 113 KB.
	rowCost = 256
)

// cost estimates the memory that a batch keeps in use. It counts only the old rows of its changes.
// A new row is part of the state, and when it is replaced, it is the old row of a later change.
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
	// Every batch counts as one more change, so that the number of empty batches is bounded too.
	b.kept += n.count + 1
	b.bytes += n.bytes
}

// dropWhileLocked drops the oldest changes while tooMany returns true. It never drops the newest
// batch, whatever its size, so that a watcher which waits for it can read it.
func (b *Broker) dropWhileLocked(tooMany func() bool) {
	for tooMany() && b.head.next.Load() != b.tail.Load() {
		b.dropLocked()
	}
}

// dropLocked drops the changes of the batch after the head, and makes that batch the head. Watchers
// that have not read these changes get ErrResync.
func (b *Broker) dropLocked() {
	old := b.head
	b.head = old.next.Load()
	b.head.changes.Store(nil)
	b.kept -= b.head.count + 1
	b.bytes -= b.head.bytes
	old.nextDropped.Store(true)
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
