// Package manager puts a manager's parts together: the users' API, the sessions of workers, the certificate authority,
// and, while this member leads, the loops that turn desired state into tasks, judge which nodes are up, keep Raft's voters
// in line with the nodes' roles, and sweep up. Leadership is one context: Run has no other notion of it.
//
// It refuses to know how the store replicates and how the planner decides. The daemon makes one Manager a term, registers
// its services, asks Authorise about every call on the node, and runs Run beside the store's own. Goroutines: those of
// dispatch, three for this node's certificate and the review of who is connected, and one for each of the seven duties of a
// leader; Run waits for all.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
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
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Gossip is what a manager asks the membership gossip.
type Gossip = dispatch.Gossip

// Config is who this manager is.
type Config struct{ NodeID string }

// Deps are what a Manager needs. Gossip, Identity, Review, Images, Resolver and Login may be nil.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Gossip Gossip
	// Identity is given the certificate which says that this node is a manager.
	Identity *transport.Identity
	// Review is called, once at a time, when Admit or Authorise may answer otherwise than before: a node, its role
	// or its key, a member of Raft, the cluster or a credential has changed.
	Review func()
	// Conn reaches another node's gRPC services.
	Conn func(nodeID string) (grpc.ClientConnInterface, error)
	// RaftAnswers tells whether a node's Raft listener takes connections: only then does it become a voter.
	RaftAnswers func(ctx context.Context, nodeID string) error
	// Answers tells whether a node answers at an address and port, and proves there who it is. Nil: nobody is asked.
	Answers  func(ctx context.Context, nodeID, hostport string) error
	Images   image.Store
	Resolver digest.Resolver
	Login    func(ctx context.Context, registry, registryAuth string) error
}

// Manager is one node's part in managing the cluster.
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

// New makes a Manager; nothing happens before Run.
func New(cfg Config, deps Deps) *Manager {
	m := &Manager{cfg: cfg, deps: deps, log: deps.Log, store: deps.Store}
	m.control = control.New(control.Config{NodeID: cfg.NodeID}, control.Deps{
		Log: deps.Log, Store: deps.Store, Conn: deps.Conn, Images: deps.Images, Resolver: deps.Resolver, Login: deps.Login, Gossip: liveness{deps.Gossip},
	})
	m.dispatch = dispatch.New(dispatch.Config{NodeID: cfg.NodeID}, dispatch.Deps{
		Log: deps.Log, Store: deps.Store, Gossip: deps.Gossip, Conn: deps.Conn, Answers: deps.Answers,
	})
	m.ca = ca.New(ca.Deps{Log: deps.Log, Store: deps.Store})
	m.auth = control.NewAuthoriser(control.MembersOf(deps.Store), control.CredentialsOf(deps.Store))
	return m
}

// liveness tells the users' API what gossip knows.
type liveness struct{ gossip Gossip }

func (l liveness) Alive(id string) (alive, known bool) {
	if l.gossip == nil {
		return false, false
	}
	switch l.gossip.Status(id) {
	case dispatch.GossipAlive:
		return true, true
	case dispatch.GossipUnknown:
		return false, false
	}
	return false, true
}

// Register adds all services of a manager, the store's included.
func (m *Manager) Register(r grpc.ServiceRegistrar) {
	m.control.Register(r)
	swarmv1.RegisterCAServer(r, m.ca)
	swarmv1.RegisterRaftServer(r, m.store.Service())
	m.dispatch.Register(r)
}

// Sessions counts the workers that are connected to this manager.
func (m *Manager) Sessions() int { return m.dispatch.Sessions() }

// Admits refuses a caller that has not proved that it knows a join token.
func (m *Manager) Admits(ctx context.Context) error { return m.ca.Admits(ctx) }

// WrongTokens counts the calls that were refused because they proved no current join token.
func (m *Manager) WrongTokens() uint64 { return m.ca.WrongTokens() }

// Authorise judges any call on this node, by the replicated state.
func (m *Manager) Authorise(ctx context.Context, fullMethod string) error {
	if err := m.auth.Authorise(ctx, fullMethod); err != nil {
		return err
	}
	// A manager of this moment has an empty replica, which must not be taken for an empty cluster.
	if strings.HasPrefix(fullMethod, "/"+swarmv1.Control_ServiceDesc.ServiceName+"/") {
		if view := m.store.View(); view.Cluster() == nil {
			return errdefs.ErrUnavailable.WithMessage("this manager has not received the cluster's state yet: try again in a moment, or name another manager with -H")
		}
	}
	return nil
}

// Admit says whether a peer may have a connection for a protocol with this manager, and how far it
// is trusted, by the replicated state. For Raft, of which the certificate says that its holder is a manager, see
// raftstore.Store.CheckPeer.
func (m *Manager) Admit(proto string, who transport.AuthInfo) (transport.Trust, error) {
	trust, err := m.auth.Admit(proto, who)
	if err != nil || proto != transport.ProtoRaft {
		return trust, err
	}
	return transport.Full, m.store.CheckPeer(who.NodeID(), who.Peer.Issued)
}

// Peer is how to reach a node, as replicated.
func (m *Manager) Peer(nodeID string) (*swarmv1.Peer, bool) {
	n, ok := m.store.View().Nodes.Get(nodeID)
	return &swarmv1.Peer{NodeId: nodeID, Addr: n.GetAddr(), Port: n.GetPort()}, ok
}

// readyPause is between two looks at the own vote: Raft tells nobody that it has come.
const readyPause = 10 * time.Millisecond

// Ready waits until this member knows the cluster, can prove to be a manager, votes, and knows a
// leader.
func (m *Manager) Ready(ctx context.Context) error {
	for !m.known() {
		_, w := m.store.Watch(raftstore.TableCluster, raftstore.TableNode)
		err := error(nil)
		if !m.known() { // it may have come before the watch
			_, err = w.Next(ctx)
		}
		w.Close()
		if err != nil && !errors.Is(err, raftstore.ErrResync) { // a new manager often gets a snapshot
			return fmt.Errorf("wait for the cluster's state: %w", err)
		}
	}
	for !m.votes() || !m.certified() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for this manager's vote and certificate: %w", err)
		}
		_ = pause.For(ctx, readyPause)
	}
	_, err := m.store.ReadIndex(ctx)
	return err
}

// Resign has the cluster make this node a worker. The leader takes its vote thereafter.
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

// known says whether the replica has the cluster and this node.
func (m *Manager) known() bool {
	view := m.store.View()
	_, ok := view.Nodes.Get(m.cfg.NodeID)
	return ok && view.Cluster() != nil
}

func (m *Manager) certified() bool {
	return m.deps.Identity == nil || m.deps.Identity.Manager().Cert != nil
}

func (m *Manager) votes() bool {
	return slices.ContainsFunc(m.store.Servers(), func(s raftstore.Server) bool { return s.ID == m.cfg.NodeID && s.Voter })
}

// Run serves until ctx ends, or until a part of it cannot go on.
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

// review has connections and calls judged again when somebody's rights may have changed. A node
// that was demoted is heard by Raft for as long as it is a member there.
func (m *Manager) review(ctx context.Context) error {
	if m.deps.Review == nil {
		return nil
	}
	var one sync.Mutex // held while Review runs
	review := func() {
		one.Lock()
		defer one.Unlock()
		m.deps.Review()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for ctx.Err() == nil {
			change := m.store.MembersChanged()
			review()
			select {
			case <-change:
			case <-ctx.Done():
			}
		}
		return nil
	})
	g.Go(func() error {
		return m.follow(ctx, func(*raftstore.View) { review() },
			raftstore.TableNode, raftstore.TableCluster, raftstore.TableCredential)
	})
	return g.Wait()
}

// lead is everything that only the leader does, for one term.
func (m *Manager) lead(ctx context.Context) error {
	m.log.Info("this manager leads", "node", m.cfg.NodeID)
	g, ctx := errgroup.WithContext(ctx)
	for name, duty := range map[string]func(context.Context) error{
		"plan": m.plan, "judge nodes": m.dispatch.LeadLiveness, "seat managers": m.seats, "reap": m.reap, "forget": m.forget,
		"align endpoints": m.control.AlignEndpoints, "make network ingress": m.control.MakeIngress,
		"rotate gossip keys": m.rotateGossipKeys,
	} {
		g.Go(func() error {
			m.persist(ctx, name, duty)
			return nil
		})
	}
	return g.Wait()
}

const (
	// dutyPause is between two attempts at a duty that failed. It doubles with every panic in a row.
	dutyPause    = time.Second
	dutyPauseMax = time.Minute
)

// persist keeps a duty up for the whole term. A duty that fails, or panics, does not cost the leadership:
// it begins anew with the newest view, after a pause. A duty that fell behind begins anew at once.
func (m *Manager) persist(ctx context.Context, name string, duty func(context.Context) error) {
	wait := dutyPause
	for {
		err := attempt(ctx, duty)
		if ctx.Err() != nil {
			return
		}
		m.log.Warn("a duty of the leader begins anew", "duty", name, "err", err)
		switch {
		case errors.Is(err, raftstore.ErrResync):
		case errors.Is(err, errPanicked):
			_ = pause.For(ctx, wait)
			wait = min(2*wait, dutyPauseMax)
		default:
			_ = pause.For(ctx, dutyPause)
			wait = dutyPause
		}
	}
}

var errPanicked = errors.New("panic")

// attempt runs a duty once. A panic in the goroutine of the duty becomes an error with its stack.
func attempt(ctx context.Context, duty func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanicked, p, debug.Stack())
		}
	}()
	return duty(ctx)
}
