package main

import (
	"context"
	"net"
	"path/filepath"

	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/member"
	"swarm/internal/seal"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/bootstrap"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// newManager opens this member's replica and builds its manager. rows are the first rows of a new
// cluster, if this node has made one.
func (p *parts) newManager(b node.Base, g node.Gossip, rows []*swarmv1.Change) (node.Manager, error) {
	first := bootstrap.In(b.Dir)
	if len(rows) > 0 {
		if err := first.Save(rows); err != nil {
			return nil, err
		}
	}
	ring, err := seal.LoadRing(filepath.Join(b.Dir, "keys"), b.Membership.ManagerLog == "")
	if err != nil {
		return nil, err
	}
	conn := func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) }
	dialRaft := func(ctx context.Context, nodeID string) (net.Conn, error) {
		return b.Dialer.DialALPN(ctx, nodeID, transport.ProtoRaft)
	}
	store, err := raftstore.Open(raftstore.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Dir: b.Dir, LogID: b.Membership.ManagerLog, Bootstrap: first.Pending(), Build: version, Sealer: ring,
		Timeouts: member.RaftTimeouts(p.options.RaftTimeout),
	}, raftstore.Deps{Log: b.Log, Listener: b.Listener.Raft(), PeerOf: peerID, Dial: dialRaft, Conn: conn, Committed: p.monitor.CommitTook, LogCreated: b.LogCreated})
	if err != nil {
		return nil, err
	}
	deps := manager.Deps{
		Log: b.Log, Store: store, Gossip: g.(*dataplane.Gossip), Conn: conn, Images: member.NewImages(p.host.images, p.options.Hostname, p.host.disk),
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
	return &member.Manager{
		Manager: manager.New(manager.Config{NodeID: b.Membership.NodeID}, deps), Store: store,
		Membership: b.Membership, Hostname: p.options.Hostname, First: first, Monitor: p.monitor, Running: &p.store,
	}, nil
}

// peerID returns the ID of the node that a connection has proven.
func peerID(c net.Conn) string {
	who, _ := transport.PeerOf(c)
	return who.NodeID()
}
