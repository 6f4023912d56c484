// Package manager assembles the parts of a manager: the API for users (control), the sessions of
// workers (dispatch) and the certificate authority (ca). While this member of Raft leads, it also
// runs the leader's duties: loops that turn desired state into tasks, judge which nodes are up,
// keep Raft's voters in line with the roles of nodes, and delete rows without an owner. Leadership
// is one context, which ends when this member stops leading.
//
// Package raftstore replicates the state, and package planner decides what follows from it. This
// package only connects the two. When a node becomes a manager, its daemon makes one Manager,
// registers the Manager's services, and runs Run beside the store's Run until the node stops being
// a manager. The daemon asks Authorise about every call, and Admit about every connection.
//
// Goroutines: those of dispatch, three each for this node's certificate and for Review, one for
// raftstore.Store.Lead, and one for each duty of the leader. Run waits for all of them.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/pause"
	"swarm/internal/transport"
	"swarm/manager/ca"
	"swarm/manager/control"
	"swarm/manager/control/digest"
	"swarm/manager/control/image"
	"swarm/manager/dispatch"
	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// Config says who this manager is.
type Config struct{ NodeID string }

// Deps are what a Manager needs. Log, Store and Conn must be set. The other fields may be nil; each
// says what happens then.
type Deps struct {
	Log   *slog.Logger
	Store *raftstore.Store
	// Gossip says which nodes answer their peers. Nil: only sessions decide which nodes are up.
	Gossip liveness.Gossip
	// Identity receives the certificate which says that this node is a manager. Nil: the manager
	// signs no such certificate, and Ready does not wait for one.
	Identity *transport.Identity
	// Review is called when Admit or Authorise may give another answer than before, because a node,
	// its role or its key, a member of Raft, the cluster or a credential has changed. The calls do
	// not overlap. Nil: nobody is told.
	Review func()
	// Conn returns a connection to another node's gRPC services.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// RaftAnswers returns nil if the node's Raft listener accepts connections. A new manager
	// becomes a voter only after that. Nil: the leader does not check it.
	RaftAnswers func(ctx context.Context, nodeID string) error
	// Answers returns nil if a node answers at an address and port, and proves there that it is
	// this node. Nil: the manager believes the new address that a node reports.
	Answers func(ctx context.Context, nodeID, hostport string) error
	// Images, Resolver and Login are those of control.Deps.
	Images   image.Store
	Resolver digest.Resolver
	Login    func(ctx context.Context, registry, registryAuth string) error
}

// Manager is the part of a node that runs only while the node is a manager.
type Manager struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	store    *raftstore.Store
	control  *control.Server
	dispatch *dispatch.Server
	ca       *ca.Server
	auth     *control.Authoriser
}

// New returns a Manager. It starts nothing; Run does.
func New(cfg Config, deps Deps) *Manager {
	m := &Manager{cfg: cfg, deps: deps, log: deps.Log, store: deps.Store}
	m.control = control.New(control.Config{NodeID: cfg.NodeID}, control.Deps{
		Log: deps.Log, Store: deps.Store, Conn: deps.Conn, Images: deps.Images, Resolver: deps.Resolver,
		Login: deps.Login, Gossip: gossipHealth{deps.Gossip},
	})
	m.dispatch = dispatch.New(dispatch.Config{NodeID: cfg.NodeID}, dispatch.Deps{
		Log: deps.Log, Store: deps.Store, Gossip: deps.Gossip, Conn: deps.Conn, Answers: deps.Answers,
	})
	m.ca = ca.New(ca.Deps{Log: deps.Log, Store: deps.Store})
	m.auth = control.NewAuthoriser(control.MembersOf(deps.Store), control.CredentialsOf(deps.Store))
	return m
}

// gossipHealth is gossip as package control/node asks it.
type gossipHealth struct{ gossip liveness.Gossip }

func (g gossipHealth) Alive(id string) (alive, known bool) {
	if g.gossip == nil {
		return false, false
	}
	switch g.gossip.Status(id) {
	case liveness.GossipAlive:
		return true, true
	case liveness.GossipUnknown:
		return false, false
	}
	return false, true
}

// Register registers all gRPC services of a manager, including the store's.
func (m *Manager) Register(r grpc.ServiceRegistrar) {
	m.control.Register(r)
	swarmv1.RegisterCAServer(r, m.ca)
	swarmv1.RegisterRaftServer(r, m.store.Service())
	m.dispatch.Register(r)
}

// Sessions returns how many workers have a session with this manager.
func (m *Manager) Sessions() int { return m.dispatch.Sessions() }

// CheckToken returns an error for a caller that has not proved that it knows a join token.
func (m *Manager) CheckToken(ctx context.Context) error { return m.ca.CheckToken(ctx) }

// WrongTokens returns how many calls were refused because they proved no current join token.
func (m *Manager) WrongTokens() uint64 { return m.ca.WrongTokens() }

// Authorise returns an error if the replicated state says that the caller in ctx may not call the
// method. For the users' API, it returns ErrUnavailable while this manager has no state yet.
func (m *Manager) Authorise(ctx context.Context, fullMethod string) error {
	if err := m.auth.Authorise(ctx, fullMethod); err != nil {
		return err
	}
	// The replica of a new manager is empty. Users must not take it for an empty cluster.
	if strings.HasPrefix(fullMethod, "/"+swarmv1.Control_ServiceDesc.ServiceName+"/") {
		if view := m.store.View(); view.Cluster() == nil {
			return errdefs.ErrUnavailable.WithMessage("this manager has not received the cluster's state yet: try again in a moment, or name another manager with -H")
		}
	}
	return nil
}

// Admit decides by the replicated state whether a peer may open a connection for a protocol, and
// how far the peer is trusted. It returns an error if the peer may not. For Raft, the transport has
// checked that the peer's certificate says that the peer is a manager, and
// raftstore.Store.CheckPeer compares that with the members of Raft.
func (m *Manager) Admit(proto string, who transport.AuthInfo) (transport.Trust, error) {
	trust, err := m.auth.Admit(proto, who)
	if err != nil || proto != transport.ProtoRaft {
		return trust, err
	}
	return transport.Full, m.store.CheckPeer(who.NodeID(), who.Peer.Issued)
}

// Peer returns the address and port of a node from this manager's replica. ok is false if the
// replica does not have the node.
func (m *Manager) Peer(nodeID string) (peer *swarmv1.Peer, ok bool) {
	n, ok := m.store.View().Nodes.Get(nodeID)
	return &swarmv1.Peer{NodeId: nodeID, Addr: n.GetAddr(), Port: n.GetPort()}, ok
}

// readyPause is the pause between two checks of Ready for this member's vote and certificate.
const readyPause = 10 * time.Millisecond

// Ready waits until this member has the cluster's state, can prove to be a manager, votes, and
// knows a leader.
func (m *Manager) Ready(ctx context.Context) error {
	for !m.hasState() {
		_, w := m.store.Watch(table.Cluster, table.Node)
		err := error(nil)
		if !m.hasState() { // The state may have come before the watch began.
			_, err = w.Next(ctx)
		}
		w.Close()
		if err != nil && !errors.Is(err, watch.ErrResync) { // A new manager often gets a snapshot.
			return fmt.Errorf("wait for the cluster's state: %w", err)
		}
	}
	for !m.votes() || !m.certified() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for this manager's vote and certificate: %w", err)
		}
		_ = pause.For(ctx, readyPause)
	}
	_, err := m.store.ReadIndex(ctx) // The leader answers this.
	return err
}

// Resign changes the role of this node to worker. The leader then removes the node from the voters.
func (m *Manager) Resign(ctx context.Context) error {
	self, ok := m.store.View().Nodes.Get(m.cfg.NodeID)
	if !ok {
		return nil // removed already
	}
	spec := self.GetSpec().CloneVT()
	spec.Role = swarmv1.NodeSpec_WORKER
	_, err := m.control.UpdateNode(ctx, &swarmv1.UpdateNodeRequest{Id: m.cfg.NodeID, Spec: spec})
	return err
}

// hasState reports whether the replica has the cluster and this node.
func (m *Manager) hasState() bool {
	view := m.store.View()
	_, ok := view.Nodes.Get(m.cfg.NodeID)
	return ok && view.Cluster() != nil
}

// certified reports whether this node has a certificate as a manager.
func (m *Manager) certified() bool {
	return m.deps.Identity == nil || m.deps.Identity.Manager().Cert != nil
}

// votes reports whether this member is a voter of Raft.
func (m *Manager) votes() bool {
	return slices.ContainsFunc(m.store.Servers(), func(s raftstore.Server) bool { return s.ID == m.cfg.NodeID && s.Voter })
}

// Run serves until ctx ends or one of its parts fails. It returns nil when ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.dispatch.Run(ctx) })
	g.Go(func() error { return m.certify(ctx) })
	g.Go(func() error { return m.review(ctx) })
	g.Go(func() error { return m.store.Lead(ctx, m.lead) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// review calls Review when the rights of a caller may have changed. It also watches the members of
// Raft, because a node that was demoted may speak Raft until it is no member of Raft any more.
func (m *Manager) review(ctx context.Context) error {
	if m.deps.Review == nil {
		return nil
	}
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.follow(ctx, changed, table.Node, table.Cluster, table.Credential)
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			members := m.store.MembersChanged()
			m.deps.Review()
			select {
			case <-members:
			case <-changed:
			case <-ctx.Done():
			}
		}
		return nil
	})
	return g.Wait()
}

// lead runs the duties of the leader until ctx ends, which is the end of the leadership. The store
// logs that this manager leads.
func (m *Manager) lead(ctx context.Context) error {
	var g errgroup.Group
	for name, duty := range map[string]func(context.Context) error{
		"plan": m.plan, "judge nodes": m.dispatch.LeadLiveness, "reconcile voters": m.reconcileVoters,
		"collect garbage": m.collectGarbage, "forget": m.forget, "rotate gossip keys": m.rotateGossipKeys,
		"align endpoints": m.control.AlignEndpoints, "roll out data": m.control.RollOut, "run jobs": m.control.RunJobs, "move volumes": m.control.MoveVolumes, "make network ingress": m.control.MakeIngress,
	} {
		g.Go(func() error {
			m.keepRunning(ctx, name, duty)
			return nil
		})
	}
	return g.Wait()
}

const (
	// dutyPause is the pause after a duty has failed. It doubles with every panic in a row, up to
	// dutyPauseMax.
	dutyPause    = time.Second
	dutyPauseMax = time.Minute
)

// keepRunning runs a duty until ctx ends. A duty that fails or panics starts again after a pause,
// with the newest view. The leadership continues, because the duty would fail in the same way on
// the next leader. A duty that fell behind the store's changes (watch.ErrResync) has not failed: it
// starts again without a pause.
func (m *Manager) keepRunning(ctx context.Context, name string, duty func(context.Context) error) {
	panicPause := dutyPause
	for {
		err := attempt(ctx, duty)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, watch.ErrResync) {
			m.log.Debug("a duty of the leader starts again from the newest view", "duty", name, "err", err)
			continue
		}
		m.log.Warn("a duty of the leader failed and starts again", "duty", name, "err", err)
		if errors.Is(err, errPanicked) {
			_ = pause.For(ctx, panicPause)
			panicPause = min(2*panicPause, dutyPauseMax)
		} else {
			_ = pause.For(ctx, dutyPause)
			panicPause = dutyPause
		}
	}
}

var errPanicked = errors.New("panic")

// attempt runs a duty once. A panic in the duty's own goroutine becomes an error with its stack.
func attempt(ctx context.Context, duty func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanicked, p, debug.Stack())
		}
	}()
	return duty(ctx)
}
