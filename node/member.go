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
	voteRemovalTimeout = 15 * time.Second
	votePollInterval   = 100 * time.Millisecond
)

var (
	errLeft    = errors.New("left the cluster")
	errRemoved = errors.New("removed from the cluster")
)

// member is this host as a member of a cluster, from the join until it leaves. A Membership is what
// it stores on disk.
type member struct {
	node     *Node
	base     Base
	ln       net.Listener
	listener *transport.Listener
	gossip   Gossip
	worker   Worker
	// bootstrapRows are the first rows of a new cluster. Only its first manager gets them, and only
	// the first time that the manager runs.
	bootstrapRows []*swarmv1.Change

	// end makes run return, with a cause.
	end context.CancelCauseFunc
	// running is closed when the parts run. gone is closed when run has returned and the files of
	// the membership are deleted.
	running, gone chan struct{}
	// roleChanged wakes runManager.
	roleChanged chan struct{}

	saving sync.Mutex // held while the membership is written to the disk

	mu      sync.Mutex // guards the fields below
	state   Membership
	manager Manager          // nil while not a manager
	refusal error            // why this node does not run a manager although it has the role
	changed broadcast.Signal // sent when manager or refusal changes
}

// closeParts closes the parts of a member whose run was never called.
func (m *member) closeParts() {
	if err := errors.Join(m.ln.Close(), m.gossip.Close(), m.worker.Close()); err != nil {
		m.base.Log.Warn("cannot close a member that did not start: its ports may stay in use until the daemon restarts", "err", err)
	}
}

// listen binds the cluster port. The caller does this before it writes anything, so that a port in
// use is reported first.
func listen(m Membership) (net.Listener, error) {
	port := m.ListenPort
	if port == 0 {
		port = m.Port
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(m.ListenAddr, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen on the cluster port: %w: stop the program that uses it, or give another port with --listen-addr", err)
	}
	return ln, nil
}

// newMember constructs the parts of a member. It takes ownership of ln, also if it fails.
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
		node: n, ln: ln, bootstrapRows: rows, state: state, running: make(chan struct{}), gone: make(chan struct{}),
		roleChanged: make(chan struct{}, 1), end: func(error) {},
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

// run runs the membership until it ends. It stops the transports after the other parts, so that a
// leader can transfer leadership.
func (m *member) run(ctx context.Context, s servers) error {
	ctx, m.end = context.WithCancelCause(ctx)
	defer m.end(nil)
	defer m.base.Dialer.Close()
	m.worker.Register(m.node.services.For("worker"))
	defer m.node.services.Unregister("worker")

	// The transports must outlive ctx, because the parts use them until the parts have ended.
	transportCtx, stopTransports := context.WithCancel(context.WithoutCancel(ctx))
	defer stopTransports()
	transports, transportCtx := errgroup.WithContext(transportCtx)
	transports.Go(func() error { return m.listener.Run(transportCtx, m.ln) })
	transports.Go(func() error { return serve(transportCtx, s.members, m.listener.GRPC()) })
	transports.Go(func() error { return serve(transportCtx, s.workers, m.listener.Workers()) })
	transports.Go(func() error { return serve(transportCtx, s.strangers, m.listener.Strangers()) })
	unwatch := context.AfterFunc(transportCtx, func() { m.end(errors.New("the listener failed")) })
	defer unwatch()

	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return m.gossip.Run(ctx) })
	parts.Go(func() error { return m.worker.Run(ctx) })
	parts.Go(func() error { return m.runManager(ctx) })
	parts.Go(func() error { return m.renew(ctx) })
	parts.Go(func() error { return m.reviewMembers(ctx) })
	close(m.running)

	err := parts.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errLeft) || errors.Is(cause, errRemoved) {
		err = cause
	}
	unwatch()
	stopTransports()
	if failure := transports.Wait(); err == nil {
		err = failure
	}
	return err
}

// runManager runs the manager while this node has the role of manager.
func (m *member) runManager(ctx context.Context) error {
	for {
		if m.membership().Manager {
			if err := m.runManagerOnce(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		// The role may have changed while the manager ran.
		if !m.membership().Manager {
			// The cluster's secrets must not stay on a demoted manager.
			if err := m.node.disk.removeManager(); err != nil {
				return err
			}
			// The next promotion may create a new log. The other managers commit the promotion
			// without this node, so nothing depends any longer on the log that this node had.
			if err := m.setManagerLog(""); err != nil {
				return err
			}
		}
		select {
		case <-m.roleChanged:
		case <-ctx.Done():
			return nil
		}
	}
}

// runManagerOnce runs the manager from a promotion until the demotion.
func (m *member) runManagerOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	base := m.base
	base.Membership = m.membership()
	base.Dir, base.LogCreated = m.node.disk.managerDir(), m.setManagerLog
	if err := os.MkdirAll(base.Dir, 0o700); err != nil {
		return err
	}
	manager, err := m.node.deps.NewManager(base, m.gossip, m.bootstrapRows)
	if errdefs.IsDataLoss(err) {
		m.awaitDemotion(ctx, m.lostManager(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	m.bootstrapRows = nil
	m.setManager(manager)
	manager.Register(m.node.services.For("manager"))
	defer func() {
		m.node.services.Unregister("manager")
		m.setManager(nil)
		if err := m.base.Identity.SetManager(pki.Credential{}); err != nil {
			m.base.Log.Error("cannot remove the manager certificate from memory", "err", err)
		}
		m.review()
	}()
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case <-m.roleChanged:
			if m.membership().Manager {
				continue
			}
			m.awaitVoteRemoval(ctx, manager)
			// The node may have been promoted again during the wait.
			if !m.membership().Manager {
				cancel()
			}
		}
	}
}

// awaitVoteRemoval keeps a demoted manager running until the others have removed its vote, until it
// is promoted again, or for voteRemovalTimeout. If it stopped earlier, the others could be without
// a majority and unable to remove the vote.
func (m *member) awaitVoteRemoval(ctx context.Context, manager Manager) {
	timeout := time.NewTimer(voteRemovalTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(votePollInterval)
	defer poll.Stop()
	for manager.Status().Voter && !m.membership().Manager {
		select {
		case <-poll.C:
		case <-timeout.C:
			m.base.Log.Warn("the other managers have not removed this node's vote: it stops being a manager anyway", "after", voteRemovalTimeout)
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

// currentManager returns the manager, or nil if this node is not one, and a channel that closes
// when that changes.
func (m *member) currentManager() (Manager, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.manager, m.changed.Changed()
}

func (m *member) membership() Membership {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// onNode handles a manager's update about this node: its removal, role, managers and roots.
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
		if err := m.saveState(); err != nil {
			m.base.Log.Error("cannot store the cluster's managers: after a restart this node uses the old list", "err", err)
		}
		m.review()
	}
	if before.Manager != after.Manager {
		m.base.Log.Info("role changed", "manager", after.Manager)
		select {
		case m.roleChanged <- struct{}{}:
		default:
		}
	}
	if err := m.updateRoots(u.Bundle); err != nil {
		m.base.Log.Error("cannot use the cluster's new root certificates", "err", err)
	}
}

// updateRoots replaces the set of roots that this node trusts, and stores it.
func (m *member) updateRoots(pem []byte) error {
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

// managers returns the managers to which a session may be opened.
func (m *member) managers() []Peer {
	state := m.membership()
	if len(state.Managers) == 0 && state.Manager {
		return []Peer{{NodeID: state.NodeID, Addr: state.Addr, Port: state.Port}}
	}
	return state.Managers
}

// localDialAddr returns the address at which this host reaches its own listener. The advertised
// address may be forwarded by NAT, and then may not work from inside.
func localDialAddr(listener net.Addr) string {
	at, err := netip.ParseAddrPort(listener.String())
	if err == nil && at.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
	}
	return listener.String()
}

// resolve returns the address of a node. It uses the first source that has one: this node's own
// listener, the replica, the stored managers, gossip.
func (m *member) resolve(nodeID string) (string, bool) {
	state := m.membership()
	if nodeID == state.NodeID {
		return localDialAddr(m.ln.Addr()), true
	}
	if manager, _ := m.currentManager(); manager != nil {
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
