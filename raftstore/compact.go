package raftstore

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// compactLog takes a snapshot whenever the entries since the last snapshot are larger than that
// snapshot and than SnapshotBytes. It then shortens the log to TrailingBytes.
//
// A member writes at most about three times the committed bytes, however large the state is. B
// bytes of entries are written to the log, and then cause one snapshot. The previous snapshot has
// at most B bytes, and the entries add at most B bytes to the state. So the new snapshot has at
// most 2B bytes: 3B together.
func (s *Store) compactLog(ctx context.Context) error {
	limit := s.cfg.SnapshotBytes
	reserved := s.disk.ReservedSpace(s.log)
	for {
		reserved.Extend()
		select {
		case <-s.disk.Grown():
		case <-ctx.Done():
			return nil
		}
		if s.disk.BytesSinceSnapshot() < limit {
			continue
		}
		size, err := s.snapshot(s.disk.Trailing(s.cfg.TrailingBytes))
		switch {
		case err == nil:
			limit = max(s.cfg.SnapshotBytes, size)
		case errors.Is(err, raft.ErrRaftShutdown):
			return nil
		default:
			limit += s.cfg.SnapshotBytes / 4 // do not retry at every entry
			s.log.Error("cannot take a Raft snapshot; the log keeps growing until one succeeds", "node", s.cfg.NodeID, "err", err)
		}
	}
}

// Trim frees the memory that is kept for followers and watchers that are behind. Call it when the
// manager is idle, because then they have usually read everything. A follower that has not is
// served from the disk, and a watcher that has not gets watch.ErrResync.
func (s *Store) Trim() {
	s.fsm.feed.DropOld()
	s.disk.DropCache()
}

// snapshot takes a snapshot and returns its size in bytes. It leaves the newest entries in the log,
// as many as trailing says but at least one, and removes all others.
func (s *Store) snapshot(trailing uint64) (int64, error) {
	// Raft takes the number from its configuration when it truncates the log. The lock keeps
	// another snapshot from changing the number until then.
	s.snapshots.Lock()
	defer s.snapshots.Unlock()
	reloaded := s.raft.ReloadableConfig()
	reloaded.TrailingLogs = max(trailing, 1)
	if err := s.raft.ReloadConfig(reloaded); err != nil {
		return 0, err
	}
	before := s.disk.BytesSinceSnapshot()
	f := s.raft.Snapshot()
	if err := f.Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return 0, err
	}
	s.disk.SnapshotTaken(before)
	meta, r, err := f.Open()
	if err != nil {
		return 0, nil //nolint:nilerr // without the size, compactLog only takes the next snapshot earlier
	}
	return meta.Size, r.Close()
}
