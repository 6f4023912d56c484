package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/internal/pause"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// awaitTimeout bounds the wait of a caller that sets no earlier deadline.
	awaitTimeout = 30 * time.Second
	// roundTimeout bounds one round of questions to all managers. Each round waits only for the
	// nodes that are ready then, so a lost node delays the answer until it counts as down.
	roundTimeout = 3 * time.Second
	// roundPause follows a round in which some ready nodes had no session. Such a node is about to
	// begin another session, or is about to count as down.
	roundPause = 50 * time.Millisecond
)

// AwaitProgrammed waits until nodes have programmed what was sent to them: their kernels and the
// name servers of their containers match their assignments. It does not wait for a node that lags
// (see lagAfter). The index in the request selects one of two questions:
//
//   - A worker sends no index. It asks whether every ready node of the cluster has programmed all
//     changes that this manager knows now. This manager asks every manager, itself included, for
//     the nodes that it serves.
//   - A manager sends an index. It asks whether the ready nodes that this manager serves have
//     programmed the changes of the store up to that index.
func (s *Server) AwaitProgrammed(ctx context.Context, req *swarmv1.AwaitProgrammedRequest) (*swarmv1.AwaitProgrammedResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	if index := req.GetIndex(); index > 0 {
		nodes, err := s.programmedHere(ctx, index)
		return programmedOn(nodes), err
	}
	s.mu.Lock()
	index := s.markedIndex
	s.mu.Unlock()
	for {
		round, cancel := context.WithTimeout(ctx, roundTimeout)
		nodes := s.programmedAnywhere(round, index)
		cancel()
		missing := missingReady(s.deps.Store.View(), nodes)
		if len(missing) == 0 {
			return programmedOn(nodes), nil
		}
		if err := pause.For(ctx, roundPause); err != nil {
			return nil, fmt.Errorf("index %d is not programmed on nodes %s: %w", index, strings.Join(missing, ", "), err)
		}
	}
}

func programmedOn(nodes []string) *swarmv1.AwaitProgrammedResponse {
	return &swarmv1.AwaitProgrammedResponse{Nodes: uint32(len(nodes)), NodeIds: nodes}
}

// programmedAnywhere asks all managers at the same time, and returns the nodes that have programmed
// the changes up to the index, or lag. A manager that does not answer counts as a manager without
// nodes. A node whose session has just moved to another manager may be in the list twice.
func (s *Server) programmedAnywhere(ctx context.Context, index uint64) []string {
	var (
		mu  sync.Mutex // guards all
		all []string
	)
	add := func(nodes []string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, nodes...)
	}
	var g errgroup.Group
	for _, m := range ca.Managers(s.deps.Store.View()) {
		g.Go(func() error {
			nodes, err := s.programmedAt(ctx, m.GetNodeId(), index)
			if err != nil {
				s.log.Debug("ask a manager which nodes are programmed", "node", m.GetNodeId(), "index", index, "err", err)
			}
			add(nodes)
			return nil
		})
	}
	_ = g.Wait()
	return all
}

func (s *Server) programmedAt(ctx context.Context, manager string, index uint64) ([]string, error) {
	if manager == s.cfg.NodeID {
		return s.programmedHere(ctx, index)
	}
	conn, err := s.deps.Conn(manager)
	if err != nil {
		return nil, err
	}
	answer, err := swarmv1.NewDispatcherClient(conn).AwaitProgrammed(ctx, &swarmv1.AwaitProgrammedRequest{Index: index})
	return answer.GetNodeIds(), transport.FromStatus(err)
}

// programmedHere waits until the ready nodes that this manager serves have programmed the changes
// up to the index, and returns these nodes. It also returns the nodes that lag.
func (s *Server) programmedHere(ctx context.Context, index uint64) (nodes []string, err error) {
	sessions, err := s.markedUpTo(ctx, index)
	if err != nil {
		return nil, err
	}
	view := s.deps.Store.View()
	for _, x := range sessions {
		if !isReady(view, x.node) {
			continue
		}
		open, lags := x.awaitCaughtUp(ctx)
		if lags {
			s.sampled.Log(slog.LevelWarn, "lags "+x.node,
				"a node does not program its assignments: tasks that stop do not wait for it", "node", x.node, "for", lagAfter)
		}
		if open {
			nodes = append(nodes, x.node)
		}
	}
	return nodes, ctx.Err()
}

// markedUpTo returns the sessions once they are marked with all changes up to an index.
func (s *Server) markedUpTo(ctx context.Context, index uint64) ([]*session, error) {
	for {
		marked := s.marked.Changed()
		s.mu.Lock()
		done := s.markedIndex >= index
		s.mu.Unlock()
		if done {
			return s.all(), nil
		}
		select {
		case <-marked:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// missingReady returns the ready nodes that are not among the given ones.
func missingReady(view *table.View, nodes []string) (missing []string) {
	for st := range view.NodeStates.All() {
		if id := st.GetNodeId(); isReady(view, id) && !slices.Contains(nodes, id) {
			missing = append(missing, id)
		}
	}
	return missing
}

func isReady(view *table.View, node string) bool {
	st, ok := view.NodeStates.Get(node)
	_, member := view.Nodes.Get(node)
	return ok && member && st.GetState() == swarmv1.NodeState_READY
}
