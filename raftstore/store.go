package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/ident"
)

// Timeouts of Raft. Zero means the default.
type Timeouts struct {
	Heartbeat time.Duration // a follower that hears nothing for so long stands for election; 500 ms
	Election  time.Duration // a candidate that has not won by then starts again; 500 ms
	Lease     time.Duration // a leader that reaches no majority for so long steps down; 250 ms
	Leader    time.Duration // how long Commit waits for a leader to appear; 5 s
}

// Config says what the member is and where its state lies.
type Config struct {
	NodeID    string
	ClusterID string // "" before it is known: then no peer's is compared
	// Dir holds raft.db and snapshots/. "" keeps everything in memory.
	Dir      string
	Timeouts Timeouts
	// Bootstrap starts a cluster of this one member when Dir holds no state.
	Bootstrap bool
	// Build is what the member says of its version.
	Build string
	// Sealer encrypts what lies in Dir; nil leaves it in the clear, with checksums.
	Sealer Sealer
	// TrailingBytes of entries are kept after a snapshot for followers that are behind; 0: 32 MiB.
	TrailingBytes int64
	// SnapshotBytes of new entries trigger a snapshot, when the last snapshot is not larger than that; 0: 64 MiB.
	SnapshotBytes int64
}

func (c *Config) complete() error {
	if c.NodeID == "" {
		return invalid("open store: no node id")
	}
	t := &c.Timeouts
	t.Heartbeat = cmp.Or(t.Heartbeat, 500*time.Millisecond)
	t.Election = cmp.Or(t.Election, 500*time.Millisecond)
	t.Lease = cmp.Or(t.Lease, 250*time.Millisecond)
	t.Leader = cmp.Or(t.Leader, 5*time.Second)
	c.TrailingBytes = cmp.Or(c.TrailingBytes, 32<<20)
	c.SnapshotBytes = cmp.Or(c.SnapshotBytes, 64<<20)
	if t.Lease > t.Heartbeat || t.Heartbeat > t.Election {
		return invalid("open store: timeouts must not shrink from lease (%s) to heartbeat (%s) to election (%s)", t.Lease, t.Heartbeat, t.Election)
	}
	return nil
}

func orDiscard(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return log
}

// Deps are the live objects that a Store uses.
type Deps struct {
	Log *slog.Logger
	// Listener yields connections of other members that want to speak Raft.
	Listener net.Listener
	// PeerOf is the node id that a connection of Listener has proven. Nil: the id that it says is believed.
	PeerOf func(net.Conn) string
	// Dial connects to another member's Listener.
	Dial func(ctx context.Context, nodeID string) (net.Conn, error)
	// Conn is where another member serves Raft's RPCs (Store.Service).
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// Committed is told how long a log entry took from the proposal until it was applied here. It must not block. Optional.
	Committed func(took time.Duration)
	// WrapDisk stands between the log and its file: for tests that break the disk. nil: nothing does.
	WrapDisk func(Disk) Disk
}

// Store is one member's replica and its way to the leader. Safe for concurrent use.
type Store struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	fsm    *fsm
	raft   *raft.Raft
	trans  network
	disk   *logStore
	stable *stallingStableStore
	layer  *streamLayer

	client     *client
	queue      *queue
	leadership *leadership
	peers      *peers
	announce   *announcer

	snapshots sync.Mutex // held while a snapshot is being taken

	raftStopped     chan struct{} // closed by abandon: Raft is shut down and may leave entries unanswered
	markRaftStopped func()

	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Open reads the state from disk and joins in Raft. Run must be running for Commit and Lead to work.
func Open(cfg Config, deps Deps) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	deps.Log = orDiscard(deps.Log)
	s := &Store{
		cfg: cfg, deps: deps, log: deps.Log, fsm: newFSM(), client: newClient(ident.RandomBytes(16)),
		queue: newQueue(), leadership: newLeadership(), peers: newPeers(), announce: newAnnouncer(), closed: make(chan struct{}),
		raftStopped: make(chan struct{}),
	}
	s.markRaftStopped = sync.OnceFunc(func() { close(s.raftStopped) })
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store of %s: %w", cfg.NodeID, err), s.release())
	}
	return s, nil
}

// idleConns is how many connections to a member stay open without a request. Replication and heartbeats
// use one each; the pipeline has its own. Each costs this member and the other a buffer of 256 KiB.
const maxIdleConns = 2

func (s *Store) open() (err error) {
	var snaps raft.SnapshotStore
	if s.disk, snaps, err = openDisk(s.cfg, s.deps, raftLogger(s.log)); err != nil {
		return err
	}
	s.stable = &stallingStableStore{StableStore: s.disk, log: s.log, closed: s.closed}
	conf := raftConfig(s.cfg, s.log)
	s.layer = newStreamLayer(s.cfg, s.deps, s.fsm, s.log)
	s.trans = newNetwork(s.layer, raft.NetworkTransportConfig{
		MaxPool: maxIdleConns, Timeout: 5 * time.Second, Logger: conf.Logger, MsgpackUseNewTimeFormat: true,
	})
	if s.cfg.Bootstrap {
		if err := bootstrap(conf, s.disk, snaps, s.trans); err != nil {
			return err
		}
	}
	s.disk.protect(s.checkRemoval)
	s.raft, err = raft.NewRaft(conf, s.fsm, s.disk, s.stable, snaps, s.trans)
	return err
}

// keepApplied stops the member rather than let a leader replace entries that the member has applied: its
// state would be one that the cluster does not have. Raft rules that out as long as no member loses what
// it has acknowledged, for example with an old copy of its disk. The next start reads the state anew, and
// then knows only what is in the snapshot.
func (s *Store) checkRemoval(from, to uint64) error {
	applied := s.fsm.applied.Load()
	if from > applied {
		return nil
	}
	first, err := s.disk.FirstIndex()
	if err != nil {
		return err
	}
	snapshot, err := strconv.ParseUint(s.raft.Stats()["last_snapshot_index"], 10, 64)
	if err != nil {
		return err
	}
	if from == first && min(to, applied) <= snapshot {
		return nil // what a snapshot covers is removed from the beginning of the log
	}
	err = errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("the leader's log contradicts entry %d, which this manager has applied (up to %d): "+
		"another manager has lost its state; if this manager does not start again, demote it, remove its state and promote it", from, applied))
	select {
	case s.fsm.halted <- err:
	default: // it has another reason already
	}
	return err
}

func bootstrap(conf *raft.Config, disk *logStore, snaps raft.SnapshotStore, trans raft.Transport) error {
	has, err := raft.HasExistingState(disk, disk, snaps)
	if err != nil || has {
		return err
	}
	return raft.BootstrapCluster(conf, disk, disk, snaps, trans, soleMember(string(conf.LocalID)))
}

func soleMember(id string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: raft.ServerAddress(id)}}}
}

func raftConfig(cfg Config, log *slog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(cfg.NodeID)
	conf.HeartbeatTimeout = cfg.Timeouts.Heartbeat
	conf.ElectionTimeout = cfg.Timeouts.Election
	conf.LeaderLeaseTimeout = cfg.Timeouts.Lease
	conf.Logger = raftLogger(log)
	// Snapshots are taken by bytes, by the janitor; Raft's own trigger counts entries.
	conf.SnapshotThreshold = 1 << 62
	conf.TrailingLogs = 1 << 10
	// Unbuffered: what lies in a buffer when Raft ends is never answered. The queue does the batching.
	conf.BatchApplyCh = false
	return conf
}

// Run serves until ctx ends, or until the member cannot follow the log any more; then the process must stop.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range proposers {
		g.Go(func() error { return s.propose(ctx) })
	}
	g.Go(func() error { return s.watchLeadership(ctx) })
	g.Go(func() error { return s.watchPeers(ctx) })
	g.Go(func() error { return s.electSoleVoter(ctx) })
	g.Go(func() error { return s.runAnnouncer(ctx) })
	g.Go(func() error { return s.compactLog(ctx) })
	g.Go(func() error { return s.publishFormat(ctx) })
	g.Go(func() error { return s.reconcileMembers(ctx) })
	g.Go(func() error {
		select {
		case err := <-s.fsm.halted:
			s.log.Error("this member stops: it cannot follow the log", "node", s.cfg.NodeID, "err", err)
			s.raft.Shutdown()
			s.markRaftStopped()
			return err
		case <-s.closed:
			return errClosed
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	if errors.Is(err, errClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close hands leadership over when it can, and ends Raft. Run must have returned, or be about to.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		if s.raft.State() == raft.Leader && s.voters() > 1 {
			if err := s.raft.LeadershipTransfer().Error(); err != nil {
				s.log.Info("leadership was not handed over", "node", s.cfg.NodeID, "err", err)
			}
		}
		s.queue.quiesce()
		close(s.closed)
		s.closeErr = s.release()
	})
	return s.closeErr
}

// release frees what Open got, as far as it came.
func (s *Store) release() error {
	var errs []error
	if s.raft != nil {
		ended := s.raft.Shutdown()
		_ = s.layer.Close() // so that nobody waits for a peer that does not answer
		errs = append(errs, ended.Error())
		s.markRaftStopped()
	}
	if s.trans.NetworkTransport != nil {
		errs = append(errs, s.trans.Close())
	}
	if s.disk != nil {
		errs = append(errs, s.disk.Close())
	}
	return errors.Join(errs...)
}

// NodeID is this member's.
func (s *Store) NodeID() string { return s.cfg.NodeID }

// View is the newest state of this replica. It never blocks for longer than a batch takes to apply.
func (s *Store) View() *View { return s.fsm.view() }

// WaitIndex waits until this replica has applied the index. The context bounds it: without a leader it may never come.
func (s *Store) WaitIndex(ctx context.Context, index uint64) (*View, error) {
	for {
		tail := s.fsm.broker.tail.Load()
		if s.fsm.applied.Load() >= index {
			return s.View(), nil
		}
		select {
		case <-tail.ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for index %d, this manager is at %d: %w", index, s.fsm.applied.Load(), ctx.Err())
		case <-s.closed:
			return nil, errClosed
		}
	}
}
