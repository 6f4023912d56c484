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

	"swarm/internal/broadcast"
	"swarm/internal/pause"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// settlePatience bounds what a caller that names no deadline waits for.
	settlePatience = 30 * time.Second
	// settleRound bounds one look at all nodes: one that is silent may count as down by the next.
	settleRound = 3 * time.Second
	// lagAfter is how long a node may take to act on what it is told. Then it is waited for no longer, until it has caught up:
	// whoever has root on a worker could otherwise hold up every task that stops, and every update, for ever.
	lagAfter = 3 * time.Second
	// settleRetry is the pause after some nodes had no session: theirs begin anew, or they are about to count as down.
	settleRetry = 50 * time.Millisecond
)

// Settled waits until what this manager knows is in force on every ready node, whichever manager serves it, nodes that lag
// aside.
func (s *Server) Settled(ctx context.Context, req *swarmv1.SettledRequest) (*swarmv1.SettledResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	if index := req.GetIndex(); index > 0 {
		nodes, err := s.settledHere(ctx, index)
		return settledOn(nodes), err
	}
	s.mu.Lock()
	index := s.followed
	s.mu.Unlock()
	for {
		round, cancel := context.WithTimeout(ctx, settleRound)
		nodes := s.settledAnywhere(round, index)
		cancel()
		missing := lacking(s.deps.Store.View(), nodes)
		if len(missing) == 0 {
			return settledOn(nodes), nil
		}
		if err := pause.For(ctx, settleRetry); err != nil {
			return nil, fmt.Errorf("index %d is not in force on nodes %s: %w", index, strings.Join(missing, ", "), err)
		}
	}
}

func settledOn(nodes []string) *swarmv1.SettledResponse {
	return &swarmv1.SettledResponse{Nodes: uint32(len(nodes)), NodeIds: nodes}
}

// settledAnywhere asks every manager at once. One that does not answer has no nodes; a node whose session has just moved
// may be named twice.
func (s *Server) settledAnywhere(ctx context.Context, index uint64) []string {
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
			nodes, err := s.settledAt(ctx, m.GetNodeId(), index)
			if err != nil {
				s.log.Debug("ask what is in force", "node", m.GetNodeId(), "index", index, "err", err)
			}
			add(nodes)
			return nil
		})
	}
	_ = g.Wait()
	return all
}

func (s *Server) settledAt(ctx context.Context, manager string, index uint64) ([]string, error) {
	if manager == s.cfg.NodeID {
		return s.settledHere(ctx, index)
	}
	conn, err := s.deps.Conn(manager)
	if err != nil {
		return nil, err
	}
	answer, err := swarmv1.NewDispatcherClient(conn).Settled(ctx, &swarmv1.SettledRequest{Index: index})
	return answer.GetNodeIds(), transport.FromStatus(err)
}

// settledHere waits for the ready nodes whose sessions are served here, and names them, with those that lag.
func (s *Server) settledHere(ctx context.Context, index uint64) (nodes []string, err error) {
	sessions, err := s.marked(ctx, index)
	if err != nil {
		return nil, err
	}
	view := s.deps.Store.View()
	for _, x := range sessions {
		if !isReady(view, x.node) {
			continue
		}
		open, lags := x.settle(ctx)
		if lags {
			s.sampled.Log(slog.LevelWarn, "lags "+x.node, "a node does not act on what it is told: tasks that stop do not wait for it", "node", x.node, "for", lagAfter)
		}
		if open {
			nodes = append(nodes, x.node)
		}
	}
	return nodes, ctx.Err()
}

// marked returns the sessions once they are marked with all that changed up to index.
func (s *Server) marked(ctx context.Context, index uint64) ([]*session, error) {
	for {
		moved := s.moved.Changed()
		s.mu.Lock()
		followed := s.followed
		s.mu.Unlock()
		if followed >= index {
			return s.all(), nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// followedLocked notes that the sessions are marked with all that changed up to index.
func (s *Server) followedLocked(index uint64) {
	if index > s.followed {
		s.followed = index
		s.moved.Broadcast()
	}
}

// lacking are the ready nodes that are not among these.
func lacking(view *raftstore.View, nodes []string) (missing []string) {
	for st := range view.NodeStates.All() {
		if id := st.GetNodeId(); isReady(view, id) && !slices.Contains(nodes, id) {
			missing = append(missing, id)
		}
	}
	return missing
}

func isReady(view *raftstore.View, node string) bool {
	st, ok := view.NodeStates.Get(node)
	_, member := view.Nodes.Get(node)
	return ok && member && st.GetState() == swarmv1.NodeState_READY
}

// progress is how far a worker is with what its session was marked with. The session's mutex guards it.
type progress struct {
	marks    uint64           // so far
	inForce  uint64           // of these, what the worker has acted on
	told     []told           // on its way to the worker, in order
	unsaid   time.Time        // of the first mark that is not in told; zero: none
	sequence uint64           // of the newest assignments that the worker has acted on
	moved    broadcast.Signal // inForce has grown
}

// told: the assignments of this sequence say all that was marked up to marks, the first of it at since.
type told struct {
	marks, sequence uint64
	since           time.Time
}

// mark notes that there is something to say.
func (p *progress) mark(now time.Time) {
	p.marks++
	if p.unsaid.IsZero() {
		p.unsaid = now
	}
}

// behind is since when the worker has had to act on something; zero: it has acted on all.
func (p *progress) behind() time.Time {
	if len(p.told) > 0 {
		return p.told[0].since
	}
	return p.unsaid
}

// sent notes that all that was marked up to marks has been said, the last of it in the assignments of this sequence.
func (p *progress) sent(marks, sequence uint64, now time.Time) {
	since := p.unsaid
	if since.IsZero() {
		since = now
	}
	if p.unsaid = now; marks == p.marks {
		p.unsaid = time.Time{}
	}
	switch n := len(p.told); {
	case sequence <= p.sequence:
		p.reach(marks)
	case n > 0 && p.told[n-1].sequence == sequence:
		p.told[n-1].marks = marks
	default:
		p.told = append(p.told, told{marks, sequence, since})
	}
}

// acted notes that the worker has acted on assignments.
func (p *progress) acted(sequence uint64) {
	p.sequence = max(p.sequence, sequence)
	for len(p.told) > 0 && p.told[0].sequence <= sequence {
		p.reach(p.told[0].marks)
		p.told = p.told[1:]
	}
}

func (p *progress) reach(marks uint64) {
	if marks > p.inForce {
		p.inForce = marks
		p.moved.Broadcast()
	}
}

// settle waits until the worker has acted on all that its session is marked with by now, or lags. Not open: the session is
// over, or ctx.
func (x *session) settle(ctx context.Context) (open, lags bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for want := x.progress.marks; x.progress.inForce < want; {
		moved, left := x.progress.moved.Changed(), time.Until(x.progress.behind().Add(lagAfter))
		if left <= 0 {
			return !x.isOver, true
		}
		x.mu.Unlock()
		lag := time.NewTimer(left)
		select {
		case <-moved:
		case <-lag.C:
		case <-x.over:
		case <-ctx.Done():
		}
		lag.Stop()
		x.mu.Lock()
		if x.isOver || ctx.Err() != nil {
			return false, false
		}
	}
	return !x.isOver, false
}
