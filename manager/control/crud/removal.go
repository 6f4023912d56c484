package crud

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/raftstore"
)

// RemovalTimeout limits how long a write waits for services that are being removed. It is longer
// than the usual grace of a task.
const RemovalTimeout = 30 * time.Second

// PendingRemoval refuses a write because services that are being removed still hold what it needs:
// a name, a port or a network. That ends when their tasks have stopped. Writer.Write waits for it,
// up to RemovalTimeout, and returns the PendingRemoval only then. It is an ErrFailedPrecondition.
type PendingRemoval struct {
	// Text is the message for the user.
	Text string
	// Services has the ids of the services.
	Services []string
}

func (p PendingRemoval) Error() string { return p.Text }

// Unwrap returns the class of the error.
func (p PendingRemoval) Unwrap() error { return errdefs.ErrFailedPrecondition }

// removalEnds waits for the services of a PendingRemoval. It returns true when they are gone, and
// false if err is another error, or the services remain.
func (w *Writer) removalEnds(ctx context.Context, err error) bool {
	var p PendingRemoval
	if !errors.As(err, &p) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, RemovalTimeout)
	defer cancel()
	view, watch := w.store.Watch(raftstore.TableService)
	defer watch.Close()
	for slices.ContainsFunc(p.Services, func(id string) bool { _, exists := view.Services.Get(id); return exists }) {
		batch, err := watch.Next(ctx)
		if err != nil {
			return false
		}
		view = batch.View
	}
	return true
}
