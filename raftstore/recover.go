package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"swarm/raftstore/logstore"
	"swarm/raftstore/table"
)

// SaveSnapshot writes this replica's state to w, in plain text: the caller must encrypt it. To
// include everything that is committed, call Latest first.
func (s *Store) SaveSnapshot(w io.Writer) error {
	// The saved state has no request sessions. Nobody needs them: the restored cluster has another
	// epoch, and a request of the old epoch is refused.
	if err := (table.Snapshot{View: s.View()}).Write(w); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

// Recover makes this member the only member of the cluster. It applies all entries of the log in
// Dir, also those that were never committed. Use it when a majority of the members is lost for
// good. It raises the cluster's epoch, so that members with the old state cannot rejoin. No store
// may be open on Dir. Open the store afterwards.
func Recover(cfg Config, deps Deps) error {
	f := &recoveryFSM{newFSM()}
	err := offline(cfg, deps, func(conf *raft.Config, disk *logstore.Store, trans raft.Transport) error {
		done := make(chan error, 1)
		go func() { // the fsm ends this goroutine if it cannot apply an entry
			done <- raft.RecoverCluster(conf, f, disk, disk, disk.Snapshots(), trans, soleMember(cfg.NodeID))
		}()
		select {
		case err := <-done:
			return err
		case err := <-f.halted:
			return err
		}
	})
	if err != nil {
		return fmt.Errorf("recover cluster from %s: %w", cfg.Dir, err)
	}
	return nil
}

// recoveryFSM is an fsm that raises the cluster's epoch before it takes a snapshot.
type recoveryFSM struct{ *fsm }

func (r *recoveryFSM) Snapshot() (raft.FSMSnapshot, error) {
	r.state.IncrementEpoch()
	return r.fsm.Snapshot()
}

// Restore writes a state that SaveSnapshot has saved into an empty Dir. The cluster then has only
// this member, and a new epoch. Restore reads the whole snapshot before it writes anything. It
// returns errdefs.ErrInvalidArgument for an invalid snapshot, and ErrFailedPrecondition if Dir
// holds a state. Open the store afterwards.
func Restore(cfg Config, deps Deps, saved io.Reader) error {
	st, err := table.ReadSnapshot(saved)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage("restore snapshot: " + err.Error())
	}
	if v := st.View(); v.Cluster() == nil || v.Index() == 0 {
		return invalid("restore snapshot: it contains no cluster")
	}
	st.IncrementEpoch()
	err = offline(cfg, deps, func(conf *raft.Config, disk *logstore.Store, trans raft.Transport) error {
		has, err := raft.HasExistingState(disk, disk, disk.Snapshots())
		if err != nil {
			return err
		}
		if has {
			return errdefs.ErrFailedPrecondition.WithMessage(cfg.Dir + " already contains a state: leave the cluster first (swarm leave --force)")
		}
		sink, err := disk.Snapshots().Create(raft.SnapshotVersionMax, st.View().Index(), 1, soleMember(cfg.NodeID), 1, trans)
		if err != nil {
			return err
		}
		if err := (snapshot{st.Snapshot()}).Persist(sink); err != nil {
			return err
		}
		// Raft's term must not be below the snapshot's.
		return disk.SetUint64([]byte("CurrentTerm"), 1)
	})
	if err != nil {
		return fmt.Errorf("restore snapshot into %s: %w", cfg.Dir, err)
	}
	return nil
}

// offline opens the disk, calls do, and closes the disk. It does not run Raft.
func offline(
	cfg Config, deps Deps, do func(conf *raft.Config, disk *logstore.Store, trans raft.Transport) error,
) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	if cfg.Dir == "" {
		return invalid("no state folder")
	}
	conf := raftConfig(cfg, orDiscard(deps.Log))
	disk, err := logstore.Open(cfg.logstore(deps), conf.Logger)
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.NodeID))
	return errors.Join(do(conf, disk, trans), disk.Close())
}

// EnsureSnapshot takes a snapshot unless the last one includes index. When the store is opened
// again, its first view is the state of the last snapshot, so it includes index. Entries that are
// only in the log are missing from that view until a leader says which of them are committed.
func (s *Store) EnsureSnapshot(ctx context.Context, index uint64) error {
	last, err := strconv.ParseUint(s.raft.Stats()["last_snapshot_index"], 10, 64)
	if err == nil && last >= index {
		return nil
	}
	return s.Snapshot(ctx)
}

// Snapshot takes a snapshot and removes old entries from the log. The store also does this by
// itself when the log has grown.
func (s *Store) Snapshot(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := s.snapshot(s.disk.Trailing(s.cfg.TrailingBytes))
	return err
}
