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
	// Attempts limits how often Write makes its changes. It makes them again if another writer has
	// changed the same row, or has taken what the changes take. The store rejects a group only if
	// another one was accepted, so each rejection is another writer's success. So if at most this
	// many writers compete, all of them succeed.
	Attempts = 512
	// CatchUpTimeout limits how long a call waits for this manager's replica.
	CatchUpTimeout = 5 * time.Second
)

// Writer commits the changes of the users' API.
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
// index of the commit. When it returns, this replica has the changes, unless that takes longer than
// CatchUpTimeout. If change makes no changes, Write commits nothing.
//
// version is the version of the row that the user named, or 0. Write calls change again with a
// newer view in three cases:
//   - A row was changed or removed meanwhile, and version is 0.
//   - A name, a port or an address that the changes take is not free any more. change then takes
//     another one, or returns an error that names the owner.
//   - change has returned a PendingRemoval. Write first waits for the removal.
func (w *Writer) Write(ctx context.Context, version uint64, change func(*table.View) ([]*swarmv1.Change, error)) (uint64, error) {
	var last error
	for range Attempts {
		changes, err := change(w.store.View())
		if w.awaitRemoval(ctx, err) {
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
		rowChanged := errdefs.IsAborted(err) || errdefs.IsNotFound(err)
		taken := errdefs.IsAlreadyExists(err) // change then takes another one, or returns an error for users
		if !taken && !(rowChanged && version == 0) {
			return 0, err
		}
		if err := w.CatchUp(ctx); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: other writers keep changing it: try again", last)
}

// awaitReplica waits until this replica has the caller's write, so that the caller's next read from
// this manager shows it. It returns no error if the replica is slow, because the write is
// committed.
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
