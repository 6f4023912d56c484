package raftstore

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// janitor takes a snapshot when the entries since the last one have grown larger than that snapshot and SnapshotBytes:
// so what a member writes stays below three times what is committed, however large the state is. It then cuts the log
// to TrailingBytes.
func (s *Store) compactLog(ctx context.Context) error {
	limit := s.cfg.SnapshotBytes
	reserved := reservedSpace{log: s.log}
	if s.cfg.Dir != "" {
		reserved.path = filepath.Join(s.cfg.Dir, logFile)
	}
	for {
		reserved.extend()
		select {
		case <-s.disk.grown:
		case <-ctx.Done():
			return nil
		}
		if s.disk.bytesSinceSnapshot() < limit {
			continue
		}
		size, err := s.snapshot(s.disk.trailing(s.cfg.TrailingBytes))
		switch {
		case err == nil:
			limit = max(s.cfg.SnapshotBytes, size)
		case errors.Is(err, raft.ErrRaftShutdown):
			return nil
		default:
			limit += s.cfg.SnapshotBytes / 4 // not again at every entry
			s.log.Error("no snapshot could be taken; the log grows", "node", s.cfg.NodeID, "err", err)
		}
	}
}

// Trim gives up what is kept in memory for followers and watchers that are behind. It is for a manager that has come to
// rest: nobody is behind then, and whoever is after all reads the log from the disk, or takes a view and watches anew.
func (s *Store) Trim() {
	s.fsm.broker.dropAll()
	s.disk.dropCache()
}

// snapshot takes a snapshot, cuts the log to the given number of entries, but at least one, and returns
// the size of the snapshot in bytes.
func (s *Store) snapshot(trailing uint64) (int64, error) {
	s.snapshots.Lock() // Raft reads the number of entries only when it cuts the log
	defer s.snapshots.Unlock()
	reloaded := s.raft.ReloadableConfig()
	reloaded.TrailingLogs = max(trailing, 1)
	if err := s.raft.ReloadConfig(reloaded); err != nil {
		return 0, err
	}
	before := s.disk.bytesSinceSnapshot()
	f := s.raft.Snapshot()
	if err := f.Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return 0, err
	}
	s.disk.snapshotTaken(before)
	meta, r, err := f.Open()
	if err != nil {
		return 0, nil //nolint:nilerr // the size only spares work
	}
	return meta.Size, r.Close()
}
