// Package dispatch owns the sessions of workers: it sends each node its assignments from this manager's replica, takes
// the nodes' reports back into the store, and gathers the evidence from which the leader concludes whether a node is up.
// It decides nothing about tasks, and nothing it does waits on a timer that an event could replace.
//
// The daemon registers Server for the gRPC services Dispatcher and Liveness. Goroutines: Run has one that follows the
// store and marks sessions, one that commits reports, and one that reports the sessions to the leader; LeadLiveness, run
// while this manager leads, has two; each session has the handler's own, which sends, and one that receives, which Run
// waits for.
package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/broadcast"
	"swarm/internal/logsample"
	"swarm/internal/pace"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// missedBeats makes a session doubtful, and a manager that the leader has not answered for as long a lost one.
	missedBeats = spec.MissedHeartbeats
	// notesBurst and notesPeriod bound the lines about the sessions and the state of one node.
	notesBurst  = 20
	notesPeriod = 20 * time.Second
)

// GossipStatus is what the membership gossip says of a node.
type GossipStatus int

// What gossip can say. Nothing follows from it alone.
const (
	GossipUnknown GossipStatus = iota // never heard of
	GossipAlive
	GossipFailed // does not answer its peers
	GossipLeft   // said goodbye
	GossipDead   // does not answer its peers, nor does its host: it is not the daemon alone that is away
)

// Gossip is the membership as this node's gossip sees it.
type Gossip interface {
	Status(nodeID string) GossipStatus
	// Changed: one of them is closed by the next change of any status.
	Changed() (members, verdicts <-chan struct{})
}

// Config is who this manager is.
type Config struct{ NodeID string }

// Deps are what a Server needs.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Gossip Gossip
	// Conn reaches another manager's gRPC services.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// Answers tells whether a node answers at an address and port, and proves there who it is. Nil: nobody is asked.
	Answers func(ctx context.Context, nodeID, hostport string) error
}

// Server serves swarmv1.Dispatcher and swarmv1.Liveness.
type Server struct {
	swarmv1.UnimplementedDispatcherServer
	swarmv1.UnimplementedLivenessServer
	cfg  Config
	deps Deps
	log  *slog.Logger

	sampled *logsample.Sampler // of what workers cause
	reports *committer
	tracker *tracker
	herald  chan struct{} // capacity 1: a session began or ended, tell the leader now
	keep    atomic.Pointer[keepers]
	atlas   *atlas
	receive sync.WaitGroup       // one for each session's receiving goroutine
	opens   *pace.Each[string]   // of sessions, by ca.PaceOf
	notes   *pace.Each[string]   // of lines in the log, by node
	refresh *raftstore.Refresher // for callers that this replica does not know

	mu       sync.Mutex // guards the rest
	stopped  bool
	sessions map[string]*session // by node id
	ended    map[string]ending   // sessions over within the session timeout, and not begun anew here
	followed uint64              // store index of the newest change that the sessions are marked with
	moved    broadcast.Signal    // followed has grown
}

// ending is what is left of a session that is over.
type ending struct {
	epoch  uint64
	heard  time.Time // the worker, for the last time
	addr   string
	broken bool
	// departing: the worker had said that its host goes down.
	departing bool
}

// New makes a Server; it serves once Run runs.
func New(cfg Config, deps Deps) *Server {
	s := &Server{
		cfg: cfg, deps: deps, log: deps.Log,
		sampled:  logsample.New(deps.Log),
		tracker:  newTracker(),
		atlas:    newAtlas(),
		herald:   make(chan struct{}, 1),
		sessions: make(map[string]*session),
		opens:    pace.New[string](pace.Budget{Burst: opensBurst, Period: opensPeriod}),
		notes:    pace.New[string](pace.Budget{Burst: notesBurst, Period: notesPeriod}),
		refresh:  raftstore.NewRefresher(deps.Store),
		ended:    make(map[string]ending),
	}
	s.reports = newCommitter(deps.Log, deps.Store)
	return s
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterDispatcherServer(r, s)
	swarmv1.RegisterLivenessServer(r, s)
}

// Run serves until ctx ends. Sessions are over when it returns.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.reports.run(ctx) })
	g.Go(func() error { return s.tellLeader(ctx) })
	err := g.Wait()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.closeAll(errdefs.ErrUnavailable.WithMessage("this manager is stopping: another one takes over"))
	s.receive.Wait()
	return err
}

// Pace is the cluster's heartbeat period and session timeout.
func Pace(c *swarmv1.Cluster) (beat, timeout time.Duration) {
	return spec.SessionPace(c.GetSpec().GetDispatcher())
}

// follow marks in each session what a change in the store may mean for it. A mark names what to look at again, never what
// to send: the session reads its newest view.
func (s *Server) follow(ctx context.Context) error {
	for {
		view, w := s.deps.Store.Watch(
			raftstore.TableNode, raftstore.TableNodeState, raftstore.TableTask, raftstore.TableNetwork, raftstore.TableEndpoint,
			raftstore.TableSecret, raftstore.TableConfig, raftstore.TableImage, raftstore.TableImageCopy, raftstore.TableCluster,
			raftstore.TableService, raftstore.TableTaskStatus, raftstore.TableClaim)
		s.keep.Store(keepersOf(view))
		s.atlas.load(view)
		for _, sess := range s.all() {
			sess.markAll(view)
		}
		s.mu.Lock()
		s.followedLocked(view.Index())
		s.mu.Unlock()
		err := s.followFrom(ctx, w)
		w.Close()
		if ctx.Err() != nil {
			return nil
		}
		s.log.Warn("assignments are sent whole again", "err", err)
	}
}

func (s *Server) followFrom(ctx context.Context, w *raftstore.Watcher) error {
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		m := marksOf(batch)
		s.atlas.apply(m, batch)
		if m.images {
			s.keep.Store(keepersOf(batch.View))
		}
		s.mark(batch.View, m, batch.Changes[len(batch.Changes)-1].Index)
	}
}

// mark tells the sessions that the marks, of changes up to index, concern.
func (s *Server) mark(view *raftstore.View, m *marks, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.followedLocked(index)
	for node, refs := range m.nodes {
		if sess := s.sessions[node]; sess != nil {
			sess.mark(view, refs...)
		}
	}
	for node, epoch := range m.epochs {
		if sess := s.sessions[node]; sess != nil && epoch > sess.epoch {
			sess.close(errdefs.ErrAborted.WithMessage("a newer session of this node has begun on another manager"))
		}
	}
	for _, node := range m.gone {
		if sess := s.sessions[node]; sess != nil {
			sess.close(errRemoved)
		}
	}
	if !m.everyone() {
		return
	}
	for _, sess := range s.sessions {
		sess.mark(view, m.shared...)
	}
}

func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for _, sess := range s.sessions {
		out = append(out, sess)
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
	for _, sess := range s.all() {
		sess.close(err)
	}
}

// note logs what happened to a node. Every worker can cause such lines as often as it may open a session: beyond the pace
// they are of level Debug.
func (s *Server) note(node, msg string, args ...any) {
	level := slog.LevelInfo
	if s.notes.Take(node) > 0 {
		level = slog.LevelDebug
	}
	s.log.Log(context.Background(), level, msg, args...)
}

// leftOut logs what is not used of a worker's message. Every worker can cause such lines as often as it likes.
func (s *Server) leftOut(node, what string) {
	if what != "" {
		s.sampled.Log(slog.LevelWarn, "left out "+node, "part of a worker's message is not used", "node", node, "reason", what)
	}
}

// Holders are the ready nodes that hold all blobs of an image.
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
