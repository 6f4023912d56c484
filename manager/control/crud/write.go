package crud

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// Attempts limits how often a write is repeated because other writers change the same row, or
	// take what it has chosen. At each attempt one of them succeeds, so this many may write to the
	// same network at the same time.
	Attempts = 512
	// CatchUpTimeout limits how long a call waits for this manager's replica.
	CatchUpTimeout = 5 * time.Second
)

// Writer commits what the users' API writes.
type Writer struct {
	log   *slog.Logger
	store *raftstore.Store
}

// NewWriter makes a Writer.
func NewWriter(log *slog.Logger, store *raftstore.Store) *Writer {
	return &Writer{log: log, store: store}
}

// Actor names the caller of an RPC, for the log and for the rows that record it.
func Actor(ctx context.Context) string {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return "unknown"
	}
	return who.String()
}

// Write commits the changes that change makes from the newest view, as one group, and returns the
// index of the commit. When it returns, this replica has the changes, unless it is slower than
// CatchUpTimeout.
//
// Write calls change again when another writer was faster: when a row has changed and the caller
// named no version (0), or when what the changes take, like a name, a port or an address, is no
// longer free. change then returns an error that says who has it, or takes another. When change
// returns a PendingRemoval, Write first waits for the removal. Write does not commit an empty
// group.
func (w *Writer) Write(ctx context.Context, version uint64, change func(*table.View) ([]*swarmv1.Change, error)) (uint64, error) {
	var last error
	for range Attempts {
		changes, err := change(w.store.View())
		if w.removalEnds(ctx, err) {
			last = err
			continue
		}
		if err != nil {
			return 0, err
		}
		if len(changes) == 0 {
			return w.store.View().Index(), nil
		}
		index, err := w.store.Commit(ctx, Actor(ctx), changes...)
		if err == nil {
			return index, w.awaitReplica(ctx, index)
		}
		last = err
		stale := errdefs.IsAborted(err) || errdefs.IsConflict(err) || errdefs.IsNotFound(err)
		if !errdefs.IsAlreadyExists(err) && (!stale || version != 0) {
			return 0, err
		}
		if err := w.CatchUp(ctx); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: others keep changing it, try again", last)
}

// awaitReplica waits until this replica has the caller's write, so that the caller's next read here
// shows it. It returns no error if the replica is slow: the write is committed.
func (w *Writer) awaitReplica(ctx context.Context, index uint64) error {
	wait, cancel := context.WithTimeout(ctx, CatchUpTimeout)
	defer cancel()
	if _, err := w.store.WaitIndex(wait, index); err != nil {
		w.log.Warn("replica lags behind a write", "index", index, "err", err)
	}
	return ctx.Err()
}

// CatchUp waits until this replica has everything that the leader has committed.
func (w *Writer) CatchUp(ctx context.Context) error {
	_, err := w.store.Latest(ctx)
	return err
}
