package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
)

// SaveSnapshot writes this replica's state, in the clear: the caller seals it under a passphrase. ReadIndex and
// WaitIndex before it make sure that nothing is missing.
func (s *Store) SaveSnapshot(w io.Writer) error {
	// Sessions are left out: a restored cluster has other members, and nobody waits for answers any more.
	if err := (&snapshot{view: s.View()}).write(w); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

// Recover makes this member the only one, with all that its own log and snapshots hold, committed or not: the way back
// when a majority is lost for good. The cluster's epoch grows, so that members left behind cannot come back with their
// old state. No store may be open on Dir. Then Open it.
func Recover(cfg Config, deps Deps) error {
	f := &recoveryFSM{newFSM()}
	err := offline(cfg, deps, func(conf *raft.Config, disk *logStore, snaps raft.SnapshotStore, trans raft.Transport) error {
		done := make(chan error, 1)
		go func() { // an entry that cannot be applied ends the goroutine that applies it
			done <- raft.RecoverCluster(conf, f, disk, disk, snaps, trans, soleMember(cfg.NodeID))
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

// recovering is an fsm whose next snapshot is of a new epoch.
type recoveryFSM struct{ *fsm }

func (r *recoveryFSM) Snapshot() (raft.FSMSnapshot, error) {
	r.beginWrite()
	r.state.incrementEpoch()
	r.publish(nil)
	r.writing.Unlock()
	return r.fsm.Snapshot()
}

func (s *state) incrementEpoch() {
	if c := s.cluster(); c != nil {
		c = c.CloneVT()
		c.Epoch++
		if c.Meta != nil {
			c.Meta.Version = max(s.index, c.Meta.Version)
		}
		s.clusters.put(c.GetId(), c)
	}
}

// Restore fills an empty Dir with a saved state, as a cluster of this one member and of a new epoch. The state is read
// whole before anything is written. Then Open it.
func Restore(cfg Config, deps Deps, saved io.Reader) error {
	st, err := readSnapshot(saved)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage("restore snapshot: " + err.Error())
	}
	if st.cluster() == nil || st.index == 0 {
		return invalid("restore snapshot: it holds no cluster")
	}
	st.incrementEpoch()
	err = offline(cfg, deps, func(conf *raft.Config, disk *logStore, snaps raft.SnapshotStore, trans raft.Transport) error {
		has, err := raft.HasExistingState(disk, disk, snaps)
		if err != nil {
			return err
		}
		if has {
			return errdefs.ErrFailedPrecondition.WithMessage(cfg.Dir + " holds a state already: leave the cluster first (swarm leave --force)")
		}
		sink, err := snaps.Create(raft.SnapshotVersionMax, st.index, 1, soleMember(cfg.NodeID), 1, trans)
		if err != nil {
			return err
		}
		if err := (&snapshot{view: st.view()}).Persist(sink); err != nil {
			return err
		}
		return disk.SetUint64([]byte("CurrentTerm"), 1) // what Raft reads at its start: not below the snapshot's
	})
	if err != nil {
		return fmt.Errorf("restore snapshot into %s: %w", cfg.Dir, err)
	}
	return nil
}

// offline opens the disk without running Raft on it.
func offline(
	cfg Config, deps Deps, do func(conf *raft.Config, disk *logStore, snaps raft.SnapshotStore, trans raft.Transport) error,
) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	if cfg.Dir == "" {
		return invalid("no state folder")
	}
	conf := raftConfig(cfg, orDiscard(deps.Log))
	disk, snaps, err := openDisk(cfg, deps, conf.Logger)
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.NodeID))
	return errors.Join(do(conf, disk, snaps, trans), disk.Close())
}

// KeepState makes sure that this replica knows the state of an index, or a newer one, as soon as it
// is opened again. What is in the log alone it knows only once a leader has told it how much of the
// log is committed.
func (s *Store) EnsureSnapshot(ctx context.Context, index uint64) error {
	last, err := strconv.ParseUint(s.raft.Stats()["last_snapshot_index"], 10, 64)
	if err == nil && last >= index {
		return nil
	}
	return s.Snapshot(ctx)
}

// Snapshot takes one now and truncates the log, as the store does by itself when the log has grown.
func (s *Store) Snapshot(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := s.snapshot(s.disk.trailing(s.cfg.TrailingBytes))
	return err
}
