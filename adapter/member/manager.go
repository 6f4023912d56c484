//go:build linux

package member

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/monitor"
	"swarm/manager"
	"swarm/manager/bootstrap"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Manager implements node.Manager. All its fields are required.
type Manager struct {
	*manager.Manager
	Store      *raftstore.Store
	Membership node.Membership
	Hostname   string
	// First has the first rows of a new cluster until they are committed.
	First   bootstrap.File
	Monitor *monitor.Monitor
	// Running holds Store while the manager runs.
	Running *atomic.Pointer[raftstore.Store]
}

// Run implements node.Manager. If the store ends, Run ends the manager. When the manager has ended,
// Run closes the store, which transfers leadership first.
func (m *Manager) Run(ctx context.Context) error {
	defer m.Monitor.AddManager(m.Manager, m.Store)()
	m.Running.Store(m.Store)
	defer m.Running.Store(nil)
	// The store must outlive ctx, because the manager uses it until the manager has ended.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	stores, storeCtx := errgroup.WithContext(storeCtx)
	stores.Go(func() error { return m.Store.Run(storeCtx) })
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		select {
		case <-storeCtx.Done():
			return errors.New("the store has ended")
		case <-ctx.Done():
			return nil
		}
	})
	parts.Go(func() error { return m.First.Commit(ctx, m.Store) })
	parts.Go(func() error { return m.Manager.Run(ctx) })
	err := parts.Wait()
	closeErr := m.Store.Close()
	stopStore()
	if failure := stores.Wait(); failure != nil {
		return failure
	}
	return errors.Join(err, closeErr)
}

// Register implements node.Manager. It adds the service for hosts that are about to join.
func (m *Manager) Register(r grpc.ServiceRegistrar) {
	m.Manager.Register(r)
	swarmv1.RegisterAdmissionServer(r, dataplane.NewGatekeeper(m.Hostname, m.Membership, m.CheckToken))
}

// Resolve implements node.Manager with the replicated address of a node.
func (m *Manager) Resolve(nodeID string) (node.Peer, bool) {
	p, ok := m.Peer(nodeID)
	return node.Peer{NodeID: nodeID, Addr: p.GetAddr(), Port: uint16(p.GetPort())}, ok
}

// Status implements node.Manager.
func (m *Manager) Status() node.ManagerStatus {
	return standing(m.Membership.NodeID, m.Store.Leader(), m.Store.View().Nodes.Len(), m.Store.Servers())
}

func standing(self, leader string, nodes int, servers []raftstore.Server) node.ManagerStatus {
	s := node.ManagerStatus{Leader: leader, Nodes: nodes}
	for _, server := range servers {
		s.Managers++
		s.Voter = s.Voter || server.ID == self && server.Voter
	}
	return s
}

// RaftTimeouts derives Raft's timeouts from the time without a heartbeat after which a follower
// starts an election. A leader that has lost the majority steps down in half of that time, before
// another leader can be elected. A call waits for a leader for four times silence, at least 5
// seconds.
func RaftTimeouts(silence time.Duration) raftstore.Timeouts {
	return raftstore.Timeouts{Heartbeat: silence, Election: silence, LeaderLease: silence / 2, Leader: max(5*time.Second, 4*silence)}
}
