package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/bounds"
	"swarm/internal/broadcast"
	"swarm/internal/members"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	unseatPatience = 15 * time.Second
	unseatLook     = 100 * time.Millisecond
)

var (
	errLeft    = errors.New("left the cluster")
	errRemoved = errors.New("removed from the cluster")
)

// member is one membership, from joining to leaving.
type member struct {
	node     *Node
	base     Base
	ln       net.Listener
	listener *transport.Listener
	gossip   Gossip
	worker   Worker
	// rows found a cluster; for its first manager only, once.
	rows []*swarmv1.Change

	// end ends the membership; the cause says why.
	end context.CancelCauseFunc
	// running is closed when the parts run; gone, when the membership has ended and is forgotten.
	running, gone chan struct{}
	// roles wakes govern.
	roles chan struct{}

	mu      sync.Mutex // guards what follows
	state   Membership
	manager Manager          // nil while not a manager
	changed broadcast.Signal // sent when manager changes
}

// abandon frees the parts of a member that never ran.
func (m *member) abandon() {
	if err := errors.Join(m.ln.Close(), m.gossip.Close(), m.worker.Close()); err != nil {
		m.base.Log.Warn("abandon a membership", "err", err)
	}
}

// listen binds the cluster port, first of all: a port that is taken must be known before anything is written.
func listen(m Membership) (net.Listener, error) {
	port := m.ListenPort
	if port == 0 {
		port = m.Port
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(m.ListenAddr, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("the cluster port: %w: stop what uses it, or give another with --listen-addr", err)
	}
	return ln, nil
}

// newMember makes the parts. It takes over ln.
func (n *Node) newMember(state Membership, cred pki.Credential, bundle *pki.Bundle, ln net.Listener, rows []*swarmv1.Change) (m *member, err error) {
	defer func() {
		if err != nil {
			_ = ln.Close()
		}
	}()
	identity, err := transport.NewIdentity(cred, bundle, time.Now)
	if err != nil {
		return nil, err
	}
	log := n.deps.Log
	m = &member{
		node: n, ln: ln, rows: rows, state: state, running: make(chan struct{}), gone: make(chan struct{}),
		roles: make(chan struct{}, 1), end: func(error) {},
	}
	m.listener = transport.NewListener(transport.ListenerConfig{}, transport.ListenerDeps{Identity: identity, Log: log, Admit: m.admit}, ln.Addr())
	m.base = Base{
		Membership: state, Identity: identity, Dialer: transport.NewDialer(identity, m.resolve), Listener: m.listener,
		Members: members.New(), Review: m.review, Log: log,
	}
	m.base.Dir = n.disk.workerDir()
	if err := os.MkdirAll(m.base.Dir, 0o700); err != nil {
		return nil, err
	}
	if m.gossip, err = n.deps.NewGossip(m.base); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if m.worker, err = n.deps.NewWorker(m.base, m.gossip, WorkerHooks{Managers: m.managers, OnNode: m.onNode, OnKeys: m.onKeys}); err != nil {
		return nil, fmt.Errorf("worker: %w", errors.Join(err, m.gossip.Close()))
	}
	return m, nil
}

// run lives the membership. The transport outlives the parts, so that a leader can hand over.
func (m *member) run(ctx context.Context, s servers) error {
	ctx, m.end = context.WithCancelCause(ctx)
	defer m.end(nil)
	defer m.base.Dialer.Close()
	m.worker.Register(m.node.services.For("worker"))
	defer m.node.services.Withdraw("worker")

	below, stopBelow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBelow()
	transports, below := errgroup.WithContext(below)
	transports.Go(func() error { return m.listener.Run(below, m.ln) })
	transports.Go(func() error { return serve(below, s.members, m.listener.GRPC()) })
	transports.Go(func() error { return serve(below, s.workers, m.listener.Workers()) })
	transports.Go(func() error { return serve(below, s.strangers, m.listener.Strangers()) })

	parts, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(below, func() { m.end(errors.New("the listener failed")) })
	defer stop()
	parts.Go(func() error { return m.gossip.Run(ctx) })
	parts.Go(func() error { return m.worker.Run(ctx) })
	parts.Go(func() error { return m.govern(ctx) })
	parts.Go(func() error { return m.renew(ctx) })
	parts.Go(func() error { return m.reviewMembers(ctx) })
	close(m.running)

	err := parts.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errLeft) || errors.Is(cause, errRemoved) {
		err = cause
	}
	stop()
	stopBelow()
	if failure := transports.Wait(); err == nil {
		err = failure
	}
	return err
}

// govern runs the manager for as long as this node has the role.
func (m *member) govern(ctx context.Context) error {
	for {
		if m.remembered().Manager {
			if err := m.govern1(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if !m.remembered().Manager {
			// What a demoted manager knows of the cluster's secrets must not stay.
			if err := os.RemoveAll(m.node.disk.managerDir()); err != nil {
				return err
			}
		}
		select {
		case <-m.roles:
		case <-ctx.Done():
			return nil
		}
	}
}

// govern1 is one term as manager.
func (m *member) govern1(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base := m.base
	base.Membership = m.remembered()
	base.Dir = m.node.disk.managerDir()
	if err := os.MkdirAll(base.Dir, 0o700); err != nil {
		return err
	}
	manager, err := m.node.deps.NewManager(base, m.gossip, m.rows)
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	m.rows = nil
	m.setManager(manager)
	manager.Register(m.node.services.For("manager"))
	defer func() {
		m.node.services.Withdraw("manager")
		m.setManager(nil)
		if err := m.base.Identity.SetManager(pki.Credential{}); err != nil {
			m.base.Log.Error("drop the certificate as a manager", "err", err)
		}
		m.review()
	}()
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-m.roles:
			if !m.remembered().Manager {
				m.awaitUnseated(ctx, manager)
			}
			if !m.remembered().Manager {
				cancel()
			}
		}
	}
}

// awaitUnseated lets a demoted manager go on until the others have taken its vote: one that stops before may leave them
// without a majority, unable to take it ever. Or until it is promoted again.
func (m *member) awaitUnseated(ctx context.Context, manager Manager) {
	patience := time.NewTimer(unseatPatience)
	defer patience.Stop()
	look := time.NewTicker(unseatLook)
	defer look.Stop()
	for manager.Standing().Voter && !m.remembered().Manager {
		select {
		case <-look.C:
		case <-patience.C:
			m.base.Log.Warn("the other managers have not taken this node's vote: it stops being a manager all the same", "after", unseatPatience)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (m *member) setManager(manager Manager) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.manager = manager
	m.changed.Broadcast()
}

// managing gives the manager, if this node is one, and a channel that closes when that changes.
func (m *member) managing() (Manager, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.manager, m.changed.Changed()
}

func (m *member) remembered() Membership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// onNode takes in what a manager says of this node.
func (m *member) onNode(u *swarmv1.NodeUpdate) {
	if u.Removed {
		m.end(errRemoved)
		return
	}
	m.mu.Lock()
	before := m.state
	if u.Node.GetSpec() != nil {
		m.state.Manager = u.Node.Spec.Role == swarmv1.NodeSpec_MANAGER
	}
	if managers := bounds.Peers(u.GetManagers()); len(managers) > 0 {
		m.state.Managers = peersOf(managers)
	}
	after := m.state
	m.mu.Unlock()
	if before.Manager != after.Manager || !slices.Equal(before.Managers, after.Managers) {
		if err := m.node.disk.save(&after); err != nil {
			m.base.Log.Error("remember the cluster's managers", "err", err)
		}
		m.review()
	}
	if before.Manager != after.Manager {
		m.base.Log.Info("role changed", "manager", after.Manager)
		select {
		case m.roles <- struct{}{}:
		default:
		}
	}
	if err := m.trust(u.Bundle); err != nil {
		m.base.Log.Error("take over new roots", "err", err)
	}
}

// trust takes over a new set of roots.
func (m *member) trust(pem []byte) error {
	if len(pem) == 0 {
		return nil
	}
	if len(pem) > bounds.MaxBundle {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the set of roots has %d bytes, at most %d are allowed", len(pem), bounds.MaxBundle))
	}
	bundle, err := pki.ParseBundle(pem)
	if err != nil {
		return err
	}
	if bundle.Digest() == m.base.Identity.Bundle().Digest() {
		return nil
	}
	if err := m.base.Identity.SetBundle(bundle); err != nil {
		return err
	}
	return m.node.disk.credential().SaveRoots(bundle)
}

// managers lists whom a session may be opened to.
func (m *member) managers() []Peer {
	state := m.remembered()
	if len(state.Managers) == 0 && state.Manager {
		return []Peer{{NodeID: state.NodeID, Addr: state.Addr, Port: state.Port}}
	}
	return state.Managers
}

// bound is where a host reaches what it listens on itself. The address that it advertises may lead to it through NAT, and
// then need not do so from within.
func bound(listener net.Addr) string {
	at, err := netip.ParseAddrPort(listener.String())
	if err == nil && at.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
	}
	return listener.String()
}

// resolve finds a node's address: itself, as replicated, as remembered.
func (m *member) resolve(nodeID string) (string, bool) {
	state := m.remembered()
	if nodeID == state.NodeID {
		return bound(m.ln.Addr()), true
	}
	if manager, _ := m.managing(); manager != nil {
		if p, ok := manager.Resolve(nodeID); ok {
			return p.HostPort(), true
		}
	}
	for _, p := range state.Managers {
		if p.NodeID == nodeID {
			return p.HostPort(), true
		}
	}
	if p, ok := m.gossip.Resolve(nodeID); ok {
		return p.HostPort(), true
	}
	return "", false
}

func (m *member) info(info *swarmv1.InfoResponse) {
	state := m.remembered()
	info.LocalNodeState, info.NodeId, info.NodeAddr, info.ClusterId = "active", state.NodeID, state.Addr, state.ClusterID
	info.Members = m.gossip.Members()
	info.Tasks = uint64(m.worker.Tasks())
	if state.Manager {
		info.Role = swarmv1.NodeSpec_MANAGER
	}
	if manager, _ := m.managing(); manager != nil {
		standing := manager.Standing()
		info.ControlAvailable, info.LeaderId = standing.Voter, standing.Leader
		info.Managers, info.Nodes = uint32(standing.Managers), uint32(standing.Nodes)
	}
}
