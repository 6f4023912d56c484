package crud

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/raftstore/table"
)

// RemovalTimeout limits how long a write waits for objects that are being removed. It is longer
// than the usual grace of a task.
const RemovalTimeout = 30 * time.Second

// PendingRemoval refuses a write because objects that are being removed still hold what it needs: a
// name, a port or a network. That ends when the planner deletes the objects. Writer.Write waits for
// it, up to RemovalTimeout, and returns the PendingRemoval only then. It is an
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

// removalEnds waits for the end of a PendingRemoval. It returns true when the objects are gone, and
// false if err is another error, or the objects remain.
func (w *Writer) removalEnds(ctx context.Context, err error) bool {
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
