package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/monitor"
	"swarm/internal/seal"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/bootstrap"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker"
)

// managerMember fits raftstore and package manager to package node.
type managerMember struct {
	*manager.Manager
	base     node.Base
	store    *raftstore.Store
	hostname string
	monitor  *monitor.Monitor
	running  *atomic.Pointer[raftstore.Store]
}

// newManager opens this member's replica. rows are the first rows of a new cluster, if this
// node has made one.
func (p *parts) newManager(b node.Base, g node.Gossip, rows []*swarmv1.Change) (node.Manager, error) {
	m := &managerMember{base: b, hostname: p.options.Hostname, monitor: p.monitor, running: &p.store}
	first := bootstrap.In(b.Dir)
	if len(rows) > 0 {
		if err := first.Save(rows); err != nil {
			return nil, err
		}
	}
	ring, err := seal.LoadRing(filepath.Join(b.Dir, "keys"))
	if err != nil {
		return nil, err
	}
	conn := func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) }
	dialRaft := func(ctx context.Context, nodeID string) (net.Conn, error) {
		return b.Dialer.DialALPN(ctx, nodeID, transport.ProtoRaft)
	}
	m.store, err = raftstore.Open(raftstore.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Dir: b.Dir, Bootstrap: first.Pending(), Build: version, Sealer: ring,
		Timeouts: raftTimeouts(p.options.RaftTimeout),
	}, raftstore.Deps{Log: b.Log, Listener: b.Listener.Raft(), PeerOf: peerID, Dial: dialRaft, Conn: conn, Committed: p.monitor.CommitTook})
	if err != nil {
		return nil, err
	}
	deps := manager.Deps{
		Log: b.Log, Store: m.store, Gossip: g.(*dataplane.Gossip), Conn: conn, Images: imagesOf{p.host},
		Identity: b.Identity, Review: b.Review, Answers: b.Dialer.Answers,
		RaftAnswers: func(ctx context.Context, nodeID string) error {
			c, err := dialRaft(ctx, nodeID)
			if err != nil {
				return err
			}
			return c.Close()
		},
	}
	if p.host.store != nil {
		deps.Resolver, deps.Login = p.host.store, p.host.store.Login
	}
	m.Manager = manager.New(manager.Config{NodeID: b.Membership.NodeID}, deps)
	return m, nil
}

// peerID is the node that a connection has proven.
func peerID(c net.Conn) string {
	who, _ := transport.PeerOf(c)
	return who.NodeID()
}

// raftTimeouts keeps Raft's proportions: a leader that is out of touch steps down before another can be elected. What
// waits for a leader waits for a few elections.
func raftTimeouts(silence time.Duration) raftstore.Timeouts {
	return raftstore.Timeouts{Heartbeat: silence, Election: silence, Lease: silence / 2, Leader: max(5*time.Second, 4*silence)}
}

// Run blocks until ctx ends. The store goes last, and hands leadership over before.
func (m *managerMember) Run(ctx context.Context) error {
	defer m.monitor.AddManager(m.Manager, m.store)()
	m.running.Store(m.store)
	defer m.running.Store(nil)
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	stores, below := errgroup.WithContext(below)
	stores.Go(func() error { return m.store.Run(below) })
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		select {
		case <-below.Done():
			return errors.New("the store has ended")
		case <-ctx.Done():
			return nil
		}
	})
	parts.Go(func() error { return bootstrap.In(m.base.Dir).Commit(ctx, m.store) })
	parts.Go(func() error { return m.Manager.Run(ctx) })
	err := parts.Wait()
	closeErr := m.store.Close()
	stop()
	if failure := stores.Wait(); failure != nil {
		return failure
	}
	return errors.Join(err, closeErr)
}

// Register adds the service for hosts that are about to join, which only managers serve.
func (m *managerMember) Register(r grpc.ServiceRegistrar) {
	m.Manager.Register(r)
	swarmv1.RegisterAdmissionServer(r, dataplane.NewGatekeeper(m.hostname, m.base.Membership, m.Admits))
}

// Resolve finds a node as replicated.
func (m *managerMember) Resolve(nodeID string) (node.Peer, bool) {
	p, ok := m.Peer(nodeID)
	return node.Peer{NodeID: nodeID, Addr: p.GetAddr(), Port: uint16(p.GetPort())}, ok
}

// Standing is where this manager stands.
func (m *managerMember) Standing() node.Standing {
	s := node.Standing{Leader: m.store.Leader(), Nodes: m.store.View().Nodes.Len()}
	for _, server := range m.store.Servers() {
		s.Managers++
		s.Voter = s.Voter || server.ID == m.base.Membership.NodeID && server.Voter
	}
	return s
}

// imagesOf fits the node's image store to the control API.
type imagesOf struct{ host *host }

func (i imagesOf) Load(ctx context.Context, r io.Reader, size int64, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error) {
	if i.host.disk != nil {
		if err := i.host.disk.Room(size); err != nil {
			return nil, fmt.Errorf("node %s: %w", i.host.options.Hostname, err)
		}
	}
	return i.host.images.Load(ctx, r, name, progress)
}

func (i imagesOf) Pull(ctx context.Context, reference, auth string, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error) {
	return i.host.images.Pull(ctx, worker.PullRequest{Ref: reference, Auth: auth}, progress)
}

func (i imagesOf) Push(ctx context.Context, reference, auth string, progress func(*swarmv1.ImageProgress)) error {
	return i.host.images.Push(ctx, worker.PushRequest{Ref: reference, Auth: auth}, progress)
}
