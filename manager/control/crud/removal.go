package crud

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/raftstore/table"
)

// RemovalTimeout limits each wait of Writer.Write for objects that are being removed. It is longer
// than tasks usually take to stop.
const RemovalTimeout = 30 * time.Second

// PendingRemoval is the error of a write that needs a name, a port or a network which objects that
// are being removed still hold. The planner deletes those objects when their tasks have stopped.
// Writer.Write waits for that, and returns the PendingRemoval only after RemovalTimeout. It is an
// ErrFailedPrecondition. Kind.PendingRemoval makes it.
type PendingRemoval struct {
	text  string // for the user
	table table.ID
	// remain reports whether one of the objects exists.
	remain func(v *table.View) bool
}

// PendingRemoval returns the error which says that the objects with these ids are being removed.
// text is the message for the user.
func (k Kind[T]) PendingRemoval(text string, ids ...string) PendingRemoval {
	return PendingRemoval{text: text, table: k.TableID, remain: func(v *table.View) bool {
		return slices.ContainsFunc(ids, func(id string) bool { _, exists := k.Table(v).Get(id); return exists })
	}}
}

// Error returns the message for the user.
func (p PendingRemoval) Error() string { return p.text }

// Unwrap returns the class of the error.
func (p PendingRemoval) Unwrap() error { return errdefs.ErrFailedPrecondition }

// awaitRemoval waits until the objects of a PendingRemoval are deleted, and returns true. It
// returns false if err is no PendingRemoval, or if the objects remain for longer than
// RemovalTimeout.
func (w *Writer) awaitRemoval(ctx context.Context, err error) bool {
	var p PendingRemoval
	if !errors.As(err, &p) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, RemovalTimeout)
	defer cancel()
	view, watch := w.store.Watch(p.table)
	defer watch.Close()
	for p.remain(view) {
		batch, err := watch.Next(ctx)
		if err != nil {
			return false
		}
		view = batch.View
	}
	return true
}
