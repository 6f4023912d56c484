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
	// settledTimeout bounds the wait of a caller that names no earlier deadline.
	settledTimeout = 30 * time.Second
	// roundTimeout bounds one question to all managers. A node that does not answer may count as
	// down by the next one.
	roundTimeout = 3 * time.Second
	// roundPause follows a round in which some nodes had no session: they are about to begin
	// another one, or about to count as down.
	roundPause = 50 * time.Millisecond
)

// Settled waits until every ready node, whichever manager serves it, has programmed what this
// manager knows now: its kernel and its name server are as the newest assignments say. It does not
// wait for nodes that lag. A worker calls it without an index; a manager calls it with the index
// for the nodes that the called manager serves.
func (s *Server) Settled(ctx context.Context, req *swarmv1.SettledRequest) (*swarmv1.SettledResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, settledTimeout)
	defer cancel()
	if index := req.GetIndex(); index > 0 {
		nodes, err := s.programmedHere(ctx, index)
		return settledResponse(nodes), err
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
			return settledResponse(nodes), nil
		}
		if err := pause.For(ctx, roundPause); err != nil {
			return nil, fmt.Errorf("index %d is not programmed on nodes %s: %w", index, strings.Join(missing, ", "), err)
		}
	}
}

func settledResponse(nodes []string) *swarmv1.SettledResponse {
	return &swarmv1.SettledResponse{Nodes: uint32(len(nodes)), NodeIds: nodes}
}

// programmedAnywhere asks all managers at once. A manager that does not answer counts as one
// without nodes. A node whose session has just moved may be named twice.
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
	answer, err := swarmv1.NewDispatcherClient(conn).Settled(ctx, &swarmv1.SettledRequest{Index: index})
	return answer.GetNodeIds(), transport.FromStatus(err)
}

// programmedHere waits for the ready nodes whose sessions are served here, and returns them. Nodes
// that lag are among them.
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
		open, lags := x.waitProgrammed(ctx)
		if lags {
			s.sampled.Log(slog.LevelWarn, "lags "+x.node,
				"a node does not act on its assignments: tasks that stop do not wait for it", "node", x.node, "for", lagAfter)
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
