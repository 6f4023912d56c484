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
	"swarm/raftstore/logstore"
	"swarm/raftstore/table"
	"swarm/raftstore/transport"
	"swarm/raftstore/watch"
)

// Timeouts are the timeouts of Raft and of requests to the leader. A zero field selects the
// default.
type Timeouts struct {
	// Heartbeat is the least time that a follower waits for a heartbeat before it starts an
	// election. The time is random, up to twice as long. 500 ms.
	Heartbeat time.Duration
	// Election is the least time that a candidate tries to win before it starts another election.
	// The time is random, up to twice as long. 500 ms.
	Election time.Duration
	// LeaderLease is how long a leader may fail to reach a majority before it steps down. 250 ms.
	LeaderLease time.Duration
	// Leader is the time after which Commit and ReadIndex end, with all their attempts. 5 s.
	Leader time.Duration
}

// Config describes the member and where it stores its state.
type Config struct {
	NodeID    string
	ClusterID string // if it is "", the cluster ids of peers are not checked
	// Dir holds raft.db and snapshots/. If it is "", everything is kept in memory.
	Dir      string
	Timeouts Timeouts
	// LogID is the ID that Deps.LogCreated got for the log in Dir. If it is set, Open returns
	// errdefs.ErrDataLoss unless Dir has this log, because a member that starts without its log
	// votes as if it had never acknowledged an entry. If it is "", Open creates a log if there is
	// none.
	LogID string
	// Bootstrap creates a cluster with this member as the only voter if Dir holds no state.
	Bootstrap bool
	// Build is the version that this member publishes in its RaftMember row.
	Build string
	// Sealer encrypts the files in Dir. If it is nil, the files are not encrypted, and log entries
	// carry checksums.
	Sealer logstore.Sealer
	// TrailingBytes is how many bytes of entries stay in the log after a snapshot, for followers
	// that are behind. 0 selects 32 MiB.
	TrailingBytes int64
	// SnapshotBytes is the number of bytes of new entries after which the store takes a snapshot.
	// If the last snapshot is larger, its size is the limit. 0 selects 64 MiB.
	SnapshotBytes int64
	// NoAnnouncements and NoImmediateElection turn off two workarounds for hashicorp/raft. The
	// first sends each commit to the followers immediately (see announcer). The second lets a sole
	// voter start an election immediately (see electSoleVoter). Tests turn them off to find out
	// whether Raft still needs them.
	NoAnnouncements, NoImmediateElection bool
}

func (c *Config) complete() error {
	if c.NodeID == "" {
		return invalid("open store: no node id")
	}
	t := &c.Timeouts
	t.Heartbeat = cmp.Or(t.Heartbeat, 500*time.Millisecond)
	t.Election = cmp.Or(t.Election, 500*time.Millisecond)
	t.LeaderLease = cmp.Or(t.LeaderLease, 250*time.Millisecond)
	t.Leader = cmp.Or(t.Leader, 5*time.Second)
	c.TrailingBytes = cmp.Or(c.TrailingBytes, 32<<20)
	c.SnapshotBytes = cmp.Or(c.SnapshotBytes, 64<<20)
	if t.LeaderLease > t.Heartbeat || t.Heartbeat > t.Election {
		return invalid("open store: timeouts must not shrink from lease (%s) to heartbeat (%s) to election (%s)", t.LeaderLease, t.Heartbeat, t.Election)
	}
	return nil
}

func (c *Config) logstore(deps Deps) logstore.Config {
	return logstore.Config{Dir: c.Dir, ID: c.LogID, Sealer: c.Sealer, Wrap: deps.WrapDisk}
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
	// LogCreated, if set, stores the ID of the log durably, for the Config.LogID of the next Open.
	// Open calls it before Raft uses the log, and only if Config.LogID is "".
	LogCreated func(id string) error
	// Listener accepts the Raft connections of other members.
	Listener net.Listener
	// PeerOf returns the node id that the peer of an accepted connection has authenticated as. If
	// PeerOf is nil, the id in the hello is trusted.
	PeerOf func(net.Conn) string
	// Dial connects to the Listener of another member.
	Dial func(ctx context.Context, nodeID string) (net.Conn, error)
	// Conn returns a gRPC connection to the Service of another member.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// Committed, if set, is called for each log entry that this member has proposed and applied.
	// took is the time between the two. It must not block.
	Committed func(took time.Duration)
	// WrapDisk, if set, wraps the disk of the log. Tests use it to inject faults.
	WrapDisk func(logstore.Disk) logstore.Disk
}

// Store is one member's replica of the state and its client to the leader. A Store is safe for
// concurrent use.
type Store struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	fsm    *fsm
	raft   *raft.Raft
	trans  *transport.Transport
	disk   *logstore.Store
	stable *logstore.StallingStable

	requests   *requestSession
	queue      *queue
	leadership *leadership
	peers      *peers
	announce   *announcer

	snapshots sync.Mutex // held while a snapshot is taken

	raftStopped     chan struct{} // closed by markRaftStopped when Raft may leave entries unanswered
	markRaftStopped func()

	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Open reads the state from disk and starts Raft. Commit and Lead work only while Run is running.
func Open(cfg Config, deps Deps) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	deps.Log = orDiscard(deps.Log)
	s := &Store{
		cfg: cfg, deps: deps, log: deps.Log, fsm: newFSM(), requests: newRequestSession(ident.RandomBytes(16)),
		queue: newQueue(), leadership: newLeadership(), peers: newPeers(), announce: newAnnouncer(), closed: make(chan struct{}),
		raftStopped: make(chan struct{}),
	}
	s.markRaftStopped = sync.OnceFunc(func() { close(s.raftStopped) })
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store of %s: %w", cfg.NodeID, err), s.release())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if s.disk, err = logstore.Open(s.cfg.logstore(s.deps), raftLogger(s.log)); err != nil {
		return err
	}
	if err := s.recordLog(); err != nil {
		return err
	}
	s.stable = logstore.NewStallingStable(s.disk, s.log, s.closed)
	conf := raftConfig(s.cfg, s.log)
	s.trans = transport.New(
		transport.Config{NodeID: s.cfg.NodeID, ClusterID: s.cfg.ClusterID, Epoch: func() uint64 { return s.View().Cluster().GetEpoch() }},
		transport.Deps{Log: s.log, Listener: s.deps.Listener, PeerOf: s.deps.PeerOf, Dial: s.deps.Dial}, conf.Logger,
	)
	if s.cfg.Bootstrap {
		if err := bootstrap(conf, s.disk, s.trans); err != nil {
			return err
		}
	}
	s.disk.Protect(s.guardRemoval)
	s.raft, err = raft.NewRaft(conf, s.fsm, s.disk, s.stable, s.disk.Snapshots(), s.trans)
	return err
}

// recordLog passes the ID of the log to Deps.LogCreated before Raft uses the log for the first
// time. A crash before that leaves a log in which this member has acknowledged nothing.
func (s *Store) recordLog() error {
	if s.cfg.LogID != "" || s.deps.LogCreated == nil {
		return nil
	}
	id, err := s.disk.ID()
	if err != nil {
		return err
	}
	return s.deps.LogCreated(id)
}

// guardRemoval is called before the log entries in the closed range [from, to] are removed. It
// returns nil for the two removals that are normal:
//   - Raft removes entries that contradict the leader's log and that this member has not applied.
//   - Raft shortens the log from its first entry, up to an entry that a snapshot covers.
//
// If this member has applied a contradicting entry, its state differs from the cluster's.
// guardRemoval then returns an error and halts the member. This happens only if another member has
// lost entries that it had acknowledged, for example because its disk was replaced with an old
// copy. At the next start the member reads its state from the snapshot alone.
func (s *Store) guardRemoval(from, to uint64) error {
	applied := s.View().Index()
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
	// A removal from the first entry of the log, of entries that the snapshot covers, is no
	// contradiction. Raft removes a contradicting entry only if it has found the entry before it,
	// in the log or as the last entry of the snapshot. So a contradiction that begins with the
	// first entry of the log begins after the snapshot.
	fromStart := from == first
	covered := min(to, applied) <= snapshot
	if fromStart && covered {
		return nil
	}
	err = errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("the leader's log contradicts entry %d, which this manager has applied (up to %d): "+
		"another manager has lost its state; if this manager does not start again, demote it, remove its state and promote it", from, applied))
	s.fsm.halt(err)
	return err
}

func bootstrap(conf *raft.Config, disk *logstore.Store, trans raft.Transport) error {
	has, err := raft.HasExistingState(disk, disk, disk.Snapshots())
	if err != nil || has {
		return err
	}
	return raft.BootstrapCluster(conf, disk, disk, disk.Snapshots(), trans, soleMember(string(conf.LocalID)))
}

func soleMember(id string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: raft.ServerAddress(id)}}}
}

func raftConfig(cfg Config, log *slog.Logger) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(cfg.NodeID)
	conf.HeartbeatTimeout = cfg.Timeouts.Heartbeat
	conf.ElectionTimeout = cfg.Timeouts.Election
	conf.LeaderLeaseTimeout = cfg.Timeouts.LeaderLease
	conf.Logger = raftLogger(log)
	// The store takes snapshots by bytes (compactLog). Raft's own trigger counts entries and is
	// disabled.
	conf.SnapshotThreshold = 1 << 62
	conf.TrailingLogs = 1 << 10
	// The queue makes the batches. With its own batches, Raft has a buffer of proposals, and never
	// answers those that are in the buffer when it is shut down.
	conf.BatchApplyCh = false
	return conf
}

// Run runs the store until ctx ends or the store is closed, and then returns nil. If the member
// cannot apply the log any further, Run returns the reason, and the process must exit.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range proposers {
		g.Go(func() error { return s.propose(ctx) })
	}
	g.Go(func() error { return s.watchLeadership(ctx) })
	g.Go(func() error { return s.watchPeers(ctx) })
	if !s.cfg.NoImmediateElection {
		g.Go(func() error { return s.electSoleVoter(ctx) })
	}
	if !s.cfg.NoAnnouncements {
		g.Go(func() error { return s.runAnnouncer(ctx) })
	}
	g.Go(func() error { return s.compactLog(ctx) })
	g.Go(func() error { return s.publishFormat(ctx) })
	g.Go(func() error { return s.reconcileMembers(ctx) })
	g.Go(func() error {
		select {
		case err := <-s.fsm.halted:
			s.log.Error("this manager stops: it cannot follow the Raft log", "node", s.cfg.NodeID, "err", err)
			s.raft.Shutdown()
			s.markRaftStopped()
			return err
		case <-s.closed:
			return watch.ErrClosed
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	if errors.Is(err, watch.ErrClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close shuts Raft down. If this member leads a cluster with other voters, Close first transfers
// the leadership to one of them. If Run still runs, Close makes it return.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		if s.raft.State() == raft.Leader && s.voters() > 1 {
			if err := s.raft.LeadershipTransfer().Error(); err != nil {
				s.log.Info("cannot transfer leadership; the other managers elect a leader", "node", s.cfg.NodeID, "err", err)
			}
		}
		s.queue.quiesce()
		close(s.closed)
		s.fsm.feed.Close()
		s.closeErr = s.release()
	})
	return s.closeErr
}

// release frees what open has acquired, also after an open that failed.
func (s *Store) release() error {
	var errs []error
	if s.raft != nil {
		ended := s.raft.Shutdown()
		_ = s.trans.CloseConnections() // unblocks goroutines that wait for an unresponsive peer
		errs = append(errs, ended.Error())
		s.markRaftStopped()
	}
	if s.trans != nil {
		errs = append(errs, s.trans.Close())
	}
	if s.disk != nil {
		errs = append(errs, s.disk.Close())
	}
	return errors.Join(errs...)
}

// NodeID returns the node id of this member.
func (s *Store) NodeID() string { return s.cfg.NodeID }

// View returns the newest state of this replica. It does not block.
func (s *Store) View() *table.View { return s.fsm.view() }

// WaitIndex waits until this replica has applied the entry with the given index, and returns a View
// that includes it. Without a leader the wait may never end, so give ctx a deadline. WaitIndex
// returns the error of ctx, or errdefs.ErrUnavailable if the store is closed.
func (s *Store) WaitIndex(ctx context.Context, index uint64) (*table.View, error) {
	return s.fsm.feed.WaitIndex(ctx, index)
}

// Watch returns a view and a watcher of all changes after it. Without tables it watches all tables.
func (s *Store) Watch(tables ...table.ID) (*table.View, *watch.Watcher) {
	return s.fsm.feed.Watch(tables...)
}

// Kept returns what watch.Broker.Kept does.
func (s *Store) Kept(t ...table.ID) (uint64, time.Time, *watch.Watcher) { return s.fsm.feed.Kept(t...) }

// Since returns a watcher of the changes after index, which is the index of an earlier View. It
// returns watch.ErrResync if these changes are no longer kept, or if index is newer than this
// replica.
func (s *Store) Since(index uint64, tables ...table.ID) (*watch.Watcher, error) {
	return s.fsm.feed.Since(index, tables...)
}
