package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/durable"
	"swarm/internal/seal"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/dispatch/liveness"
	"swarm/node"
	"swarm/overlay/gossip"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker/engine"
)

// managerMember fits raftstore and package manager to package node.
type managerMember struct {
	*manager.Manager
	base     node.Base
	store    *raftstore.Store
	gossip   *gossipMember
	hostname string
	monitor  *monitor
	running  *atomic.Pointer[raftstore.Store]
}

// newManager opens this member's replica. rows found a cluster: they are kept in a file until they are committed, so that
// a crash between the two loses nothing.
func (p *parts) newManager(b node.Base, g node.Gossip, rows []*swarmv1.Change) (node.Manager, error) {
	m := &managerMember{base: b, gossip: g.(*gossipMember), hostname: p.options.Hostname, monitor: p.monitor, running: &p.store}
	if len(rows) > 0 {
		if err := m.keepFounding(rows); err != nil {
			return nil, err
		}
	}
	ring, err := loadRing(filepath.Join(b.Dir, "keys"))
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(m.foundingFile())
	conn := func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) }
	dialRaft := func(ctx context.Context, nodeID string) (net.Conn, error) {
		return b.Dialer.DialALPN(ctx, nodeID, transport.ProtoRaft)
	}
	m.store, err = raftstore.Open(raftstore.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Dir: b.Dir, Bootstrap: err == nil, Build: version, Sealer: ring,
		Timeouts: raftTimeouts(p.options.RaftTimeout),
	}, raftstore.Deps{Log: b.Log, Listener: b.Listener.Raft(), PeerOf: peerID, Dial: dialRaft, Conn: conn, Committed: func(took time.Duration) { p.monitor.commits.Observe(took) }})
	if err != nil {
		return nil, err
	}
	deps := manager.Deps{
		Log: b.Log, Store: m.store, Gossip: hearsay{m.gossip}, Conn: conn, Images: imagesOf{p.host},
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
	defer m.monitor.Add(m.metrics(m.monitor.of))()
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
	parts.Go(func() error { return m.commitFounding(ctx) })
	parts.Go(func() error { return m.Manager.Run(ctx) })
	err := parts.Wait()
	closeErr := m.store.Close()
	stop()
	if failure := stores.Wait(); failure != nil {
		return failure
	}
	return errors.Join(err, closeErr)
}

// Resolve finds a node as replicated.
func (m *managerMember) Resolve(nodeID string) (node.Peer, bool) {
	p, ok := m.Peer(nodeID)
	return node.Peer{NodeID: nodeID, Addr: p.GetAddr(), Port: uint16(p.GetPort())}, ok
}

// Status returns the state of this manager as its replica has it.
func (m *managerMember) Status() node.ManagerStatus {
	s := node.ManagerStatus{Leader: m.store.Leader(), Nodes: m.store.View().Nodes.Len()}
	for _, server := range m.store.Servers() {
		s.Managers++
		s.Voter = s.Voter || server.ID == m.base.Membership.NodeID && server.Voter
	}
	return s
}

func (m *managerMember) foundingFile() string { return filepath.Join(m.base.Dir, "founding") }

func (m *managerMember) keepFounding(rows []*swarmv1.Change) error {
	data, err := (&swarmv1.Group{Changes: rows}).MarshalVT()
	if err != nil {
		return err
	}
	return durable.WriteFile(m.foundingFile(), data, 0o600)
}

// commitFounding writes the first rows of a new cluster, if that is still to be done.
func (m *managerMember) commitFounding(ctx context.Context) error {
	data, err := os.ReadFile(m.foundingFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var rows swarmv1.Group
	if err := rows.UnmarshalVT(data); err != nil {
		return fmt.Errorf("%s is damaged: %w", m.foundingFile(), err)
	}
	// Already there: the process died after the commit.
	if _, err := m.store.Commit(ctx, "init", rows.Changes...); err != nil && !errdefs.IsAlreadyExists(err) {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("write the new cluster: %w", err)
	}
	return os.Remove(m.foundingFile())
}

// loadRing reads the keys of what lies on disk, or makes them.
func loadRing(file string) (*seal.Ring, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		ring := seal.NewRing(seal.NewKey())
		// Durably: a log whose key is lost in a power failure can never be read again.
		return ring, durable.WriteFile(file, ring.Encode(nil), 0o600)
	} else if err != nil {
		return nil, err
	}
	return seal.ParseRing(data, nil)
}

// hearsay fits package gossip to what managers ask.
type hearsay struct{ g *gossipMember }

func (h hearsay) Status(nodeID string) liveness.GossipStatus {
	m, ok := h.g.Member(nodeID)
	switch {
	case !ok:
		return liveness.GossipUnknown
	case m.Status == gossip.Failed:
		if v, _ := h.g.witness.Verdict(); slices.Contains(v.Dead, nodeID) {
			return liveness.GossipDead
		}
		return liveness.GossipFailed
	case m.Status == gossip.Left:
		return liveness.GossipLeft
	default:
		return liveness.GossipAlive
	}
}

func (h hearsay) Changed() (members, verdicts <-chan struct{}) {
	_, members = h.g.Gossip.Members()
	_, verdicts = h.g.witness.Verdict()
	return members, verdicts
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
	return i.host.images.Pull(ctx, engine.PullRequest{Ref: reference, Auth: auth}, progress)
}

func (i imagesOf) Push(ctx context.Context, reference, auth string, progress func(*swarmv1.ImageProgress)) error {
	return i.host.images.Push(ctx, engine.PushRequest{Ref: reference, Auth: auth}, progress)
}
