// Package dispatch serves the sessions of workers. A session is one stream: the manager sends the
// node its assignments from its own replica of the store, and the worker sends heartbeats and
// reports, which this package writes into the store.
//
// A worker receives these messages in a session:
//
//	Welcome        once, first: the epoch of the session, the heartbeat period and the lease
//	NodeUpdate     the node's row, the managers and the root certificates, when one changes
//	Assignments    first a complete set of what the node needs, then what has changed; package
//	               assignment says what one message holds
//	HeartbeatAck   after a heartbeat, and when the leader has confirmed one
//	StatusAck      when a status report is committed, or dropped because it says nothing new
//	DepartureAck   once, when the node has announced its departure and its row says DOWN
//
// The last message of a session that has been closed is empty, or a NodeUpdate that the node was
// removed.
//
// One goroutine follows the store and marks in each session what may be out of date. It computes no
// message. When the last message is sent, the session's sender computes the next one from the
// newest view. So a slow worker costs a set of references and not a queue of messages.
//
// The package decides nothing about tasks. It passes changes, reports and heartbeats on as soon as
// they come; timers only bound waits, limit rates, and notice silence. Package liveness decides
// which nodes are up.
//
// The daemon registers Server for the gRPC services Dispatcher and Liveness. Goroutines: Run has
// three, which follow the store, commit reports, and report the sessions to the leader. Each
// session has the goroutine of its gRPC handler, one that sends, and one that receives. Run waits
// for the receiving ones. LeadLiveness, which runs while this manager leads, has two.
package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/broadcast"
	"swarm/internal/logsample"
	"swarm/internal/pace"
	"swarm/internal/spec"
	"swarm/manager/dispatch/assignment"
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// notesBurst and notesPeriod bound the log lines about the sessions and the state of one node.
const (
	notesBurst  = 20
	notesPeriod = 20 * time.Second
)

// Config says who this manager is.
type Config struct{ NodeID string }

// Deps are what a Server needs. Gossip and Answers may be nil.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Gossip liveness.Gossip
	// Conn returns a connection to another manager's gRPC services.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// Answers returns nil if a node answers at an address and port, and proves there who it is. If
	// the field is nil, the node's own claim of a new address is enough.
	Answers func(ctx context.Context, nodeID, hostport string) error
}

// Server serves swarmv1.Dispatcher, and swarmv1.Liveness through its Tracker.
type Server struct {
	swarmv1.UnimplementedDispatcherServer
	cfg  Config
	deps Deps
	log  *slog.Logger

	sampled     *logsample.Sampler // for lines that workers can cause
	committer   *committer
	tracker     *liveness.Tracker
	assignments *assignment.State
	contact     leaderContact
	reportNow   chan struct{}        // capacity 1: a session began or ended, report it to the leader now
	receivers   sync.WaitGroup       // one for each session's receiving goroutine
	opens       *pace.Each[string]   // of sessions, by ca.RateKey
	notes       *pace.Each[string]   // of log lines, by node
	refresh     *raftstore.Refresher // for callers that this replica does not know

	mu          sync.Mutex // guards the rest
	stopped     bool
	sessions    map[string]*session // by node ID
	markedIndex uint64              // store index of the newest change that the sessions are marked with
	marked      broadcast.Signal    // sent when markedIndex grows
	// ended has the sessions that are over, by node ID. A new session of the node on this manager
	// replaces its entry, and sessionReport drops the entries that are too old.
	ended map[string]endedSession
}

// endedSession is what remains of a session that is over.
type endedSession struct {
	epoch     uint64
	heard     time.Time // when the worker was last heard
	addr      string
	broken    bool // the connection broke
	departing bool // the worker had announced that its host goes down
}

// New returns a Server. It serves once Run runs.
func New(cfg Config, deps Deps) *Server {
	s := &Server{
		cfg: cfg, deps: deps, log: deps.Log,
		sampled:     logsample.New(deps.Log),
		committer:   newCommitter(deps.Log, deps.Store),
		assignments: assignment.NewState(),
		reportNow:   make(chan struct{}, 1),
		sessions:    make(map[string]*session),
		opens:       pace.New[string](pace.Budget{Burst: opensBurst, Period: opensPeriod}),
		notes:       pace.New[string](pace.Budget{Burst: notesBurst, Period: notesPeriod}),
		refresh:     raftstore.NewRefresher(deps.Store),
		ended:       make(map[string]endedSession),
	}
	s.tracker = liveness.New(liveness.Config{NodeID: cfg.NodeID}, liveness.Deps{
		Log: deps.Log, Store: deps.Store, Gossip: deps.Gossip,
		Sessions: s.sessionReport, InTouchFor: s.inTouchFor, Note: s.note,
	})
	return s
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterDispatcherServer(r, s)
	swarmv1.RegisterLivenessServer(r, s.tracker)
}

// LeadLiveness decides which nodes are up until ctx ends. The manager calls it while it leads.
func (s *Server) LeadLiveness(ctx context.Context) error { return s.tracker.Lead(ctx) }

// Run serves until ctx ends. All sessions are over when it returns.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.committer.run(ctx) })
	g.Go(func() error { return s.reportSessions(ctx) })
	err := g.Wait()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.closeAll(errStopping)
	s.receivers.Wait()
	return err
}

// pace returns the cluster's heartbeat period and session timeout.
func (s *Server) pace() (beat, timeout time.Duration) { return paceOf(s.deps.Store.View().Cluster()) }

func paceOf(c *swarmv1.Cluster) (beat, timeout time.Duration) {
	return spec.SessionTiming(c.GetSpec().GetDispatcher())
}

// follow marks in each session what a change in the store may mean for its node, until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	for {
		view, w := s.deps.Store.Watch(assignment.Tables()...)
		s.assignments.Load(view)
		for _, x := range s.all() {
			x.markAll(view)
		}
		s.advance(view.Index())
		err := s.followFrom(ctx, w)
		w.Close()
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("changes of the store were missed: all sessions get complete assignments", "err", err)
	}
}

func (s *Server) followFrom(ctx context.Context, w *watch.Watcher) error {
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		s.closeOutdated(batch)
		s.mark(batch.View, s.assignments.Apply(batch))
		s.advance(batch.Changes[len(batch.Changes)-1].Index)
	}
}

// mark adds references to the sessions of the nodes that they concern.
func (s *Server) mark(view *table.View, d *assignment.Dirty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, refs := range d.ByNode {
		if x := s.sessions[node]; x != nil {
			x.mark(view, refs...)
		}
	}
	if len(d.All) == 0 {
		return
	}
	for _, x := range s.sessions {
		x.mark(view, d.All...)
	}
}

// closeOutdated closes the sessions of nodes that were removed, and the sessions that a newer
// session on another manager replaces.
func (s *Server) closeOutdated(batch watch.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range batch.Changes {
		x := s.sessions[c.Key]
		if x == nil {
			continue
		}
		switch c.Table {
		case table.Node:
			if c.New == nil {
				x.close(errRemoved)
			}
		case table.NodeState:
			if st, _ := c.New.(*swarmv1.NodeState); st.GetSessionEpoch() > x.epoch {
				x.close(errdefs.ErrAborted.WithMessage("a newer session of this node has begun on another manager"))
			}
		}
	}
}

// advance notes that the sessions are marked with all changes up to a store index.
func (s *Server) advance(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index > s.markedIndex {
		s.markedIndex = index
		s.marked.Broadcast()
	}
}

// all returns the sessions that are served here.
func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for _, x := range s.sessions {
		out = append(out, x)
	}
	return out
}

// Sessions counts the workers that are connected to this manager.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (s *Server) closeAll(err error) {
	for _, x := range s.all() {
		x.close(err)
	}
}

// note logs what happened to a node. A worker causes such lines whenever it opens a session, so the
// lines over the rate of its node have the level Debug.
func (s *Server) note(nodeID, msg string, args ...any) {
	level := slog.LevelInfo
	if s.notes.Take(nodeID) > 0 {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, msg, args...)
}

// logLeftOut logs why a part of a worker's message is not used. An empty reason means that all
// parts are used.
func (s *Server) logLeftOut(nodeID, reason string) {
	if reason != "" {
		s.sampled.Log(slog.LevelWarn, "left out "+nodeID, "part of a worker's message is not used", "node", nodeID, "reason", reason)
	}
}

// Holders returns the ready nodes that hold all blobs of an image, except for the caller. It
// returns InvalidArgument when the request has no valid digest.
func (s *Server) Holders(ctx context.Context, req *swarmv1.HoldersRequest) (*swarmv1.HoldersResponse, error) {
	if !bounds.IsDigest(req.GetDigest()) {
		return nil, errdefs.ErrInvalidArgument.WithMessage("holders of an image: no valid digest is named")
	}
	view := s.deps.Store.View()
	self := callerID(ctx)
	out := &swarmv1.HoldersResponse{}
	for c := range view.ImageCopies.Prefix(req.GetDigest() + "/") {
		node, ok := view.Nodes.Get(c.GetNodeId())
		state, _ := view.NodeStates.Get(c.GetNodeId())
		if ok && node.GetId() != self && !c.GetLeaving() && state.GetState() == swarmv1.NodeState_READY {
			out.Holders = append(out.Holders, &swarmv1.Peer{NodeId: node.GetId(), Addr: node.GetAddr(), Port: node.GetPort()})
		}
	}
	return out, nil
}
