package liveness

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/spec"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// writeRetry is the pause after node states could not be written.
const writeRetry = 50 * time.Millisecond

// Config says who this manager is.
type Config struct{ NodeID string }

// Deps are what a Tracker needs. Gossip may be nil; the others must be set.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Gossip Gossip
	// Sessions returns the report of this manager's own sessions.
	Sessions func(now time.Time) *swarmv1.SessionReport
	// InTouchFor returns for how long leaders have answered this manager without a gap of three
	// heartbeat periods, and 0 during such a gap. The answers may be of several leaders, one after
	// the other, and of this manager itself.
	InTouchFor func(now time.Time) time.Duration
	// Note logs what happened to a node, at a bounded rate for each node.
	Note func(nodeID, msg string, args ...any)
}

// Tracker gathers what all managers report of their sessions while this manager leads, and writes
// the states of nodes. It serves swarmv1.Liveness.
type Tracker struct {
	swarmv1.UnimplementedLivenessServer
	cfg      Config
	deps     Deps
	log      *slog.Logger
	sessions *lastSessions
	wake     chan struct{} // capacity 1: the evidence has changed
}

// New returns a Tracker, which takes in reports while Lead runs.
func New(cfg Config, deps Deps) *Tracker {
	return &Tracker{cfg: cfg, deps: deps, log: deps.Log, sessions: newLastSessions(), wake: make(chan struct{}, 1)}
}

// Reconsider makes Lead judge all nodes again now. While Lead does not run, the call has no effect.
func (t *Tracker) Reconsider() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Lead decides which nodes are up until ctx ends. The manager calls it while it leads. It returns
// an error when it cannot follow the store; it may be called again.
func (t *Tracker) Lead(ctx context.Context) error {
	t.sessions.beginTerm(time.Now())
	defer t.sessions.endTerm()
	view, w := t.deps.Store.Watch(table.Node, table.NodeState)
	defer w.Close()
	t.sessions.reconcile(view, time.Now())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			_, err := w.Next(ctx)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("watch nodes: %w", err)
			}
			t.Reconsider()
		}
	})
	g.Go(func() error { return t.judge(ctx) })
	return g.Wait()
}

// judge looks at all nodes whenever the evidence has changed, and when time alone changes a
// verdict.
func (t *Tracker) judge(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var members, verdicts <-chan struct{}
	for {
		if t.deps.Gossip != nil {
			members, verdicts = t.deps.Gossip.Changed() // before the look, so that no change is missed
		}
		next, err := t.judgeAll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			t.log.Warn("state of nodes was not stored", "err", err)
			next = writeRetry
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-t.wake:
		case <-members:
		case <-verdicts:
		case <-ctx.Done():
			return nil
		}
	}
}

// judgeAll judges every node, writes the states that change, and returns the time after which it
// must be called again.
func (t *Tracker) judgeAll(ctx context.Context) (time.Duration, error) {
	now, view := time.Now(), t.deps.Store.View()
	t.sessions.reconcile(view, now) // gives every node of this view the entry that evidence needs
	t.sessions.report(t.deps.Sessions(now), now)
	beat, timeout := spec.SessionTiming(view.Cluster().GetSpec().GetDispatcher())
	next, inTouchFor := timeout, t.deps.InTouchFor(now)
	var groups []*swarmv1.Group
	for st := range view.NodeStates.All() {
		v := Judge(t.sessions.evidence(st, t.gossip(st.GetNodeId()), inTouchFor, now), Limits{Beat: beat, Timeout: timeout})
		if v.Next > 0 {
			next = min(next, v.Next)
		}
		row := applyVerdict(st, v, t.sessions.shorterLease(st), now)
		if row == nil {
			continue
		}
		groups = append(groups, &swarmv1.Group{Changes: []*swarmv1.Change{table.Update(row)}})
		t.deps.Note(st.GetNodeId(), "node state", "node", st.GetNodeId(), "state", v.State.String(), "why", v.Why)
	}
	if len(groups) == 0 {
		return next, nil
	}
	index, _, err := t.deps.Store.CommitGroups(ctx, "liveness", groups)
	if err != nil {
		return 0, err
	}
	// A group is rejected when a session began meanwhile. That changed the row, which wakes judge.
	_, err = t.deps.Store.WaitIndex(ctx, index)
	return next, err
}

// applyVerdict returns the row of a node with a verdict and a shorter lease (0: none), or nil when
// nothing changes.
func applyVerdict(st *swarmv1.NodeState, v Verdict, shorterLease time.Duration, now time.Time) *swarmv1.NodeState {
	if v.State == st.GetState() && v.Fenced == st.GetFenced() && shorterLease == 0 {
		return nil
	}
	row := st.CloneVT()
	row.Fenced = v.Fenced
	if shorterLease > 0 {
		row.Lease = durationpb.New(shorterLease)
	}
	if v.State != st.GetState() {
		row.State, row.Message, row.Since = v.State, v.Why, timestamppb.New(now)
		if st.GetState() == swarmv1.NodeState_READY {
			row.Up = durationpb.New(st.GetUp().AsDuration() + max(now.Sub(st.GetSince().AsTime()), 1))
		}
	}
	return row
}

func (t *Tracker) gossip(node string) GossipStatus {
	if t.deps.Gossip == nil {
		return GossipUnknown
	}
	return t.deps.Gossip.Status(node)
}

// Report takes in another manager's report of its sessions. It returns PermissionDenied when the
// caller is not the manager that the report names, and Unavailable when this manager does not lead
// or cannot confirm that it does.
func (t *Tracker) Report(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if who, err := transport.FromContext(ctx); err == nil && who.NodeID() != "" && who.NodeID() != r.GetManagerId() {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("manager %s reports for manager %s", who.NodeID(), r.GetManagerId()))
	}
	return t.TakeReport(ctx, r)
}

// TakeReport takes in a report, of another manager or of this one. It returns Unavailable when this
// manager does not lead or cannot confirm that it does.
func (t *Tracker) TakeReport(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if t.deps.Store.IsLeader() {
		t.sessions.waitForTerm(ctx)
	}
	now := time.Now()
	leading, superseded := t.sessions.report(r, now)
	if !leading {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager does not lead: ask " + t.deps.Store.Leader())
	}
	t.Reconsider()
	// A leader whose process was suspended may have a successor, which has not heard of these
	// sessions.
	if _, err := t.deps.Store.ReadIndex(ctx); err != nil || !t.deps.Store.IsLeader() {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager cannot confirm that it leads: ask again")
	}
	view := t.deps.Store.View()
	for _, e := range r.GetSessions() {
		// The lease of a node that was removed must not be renewed: the planner waits for its end.
		if _, member := view.Nodes.Get(e.GetNodeId()); !member && !e.GetEnded() {
			superseded = append(superseded, e.GetNodeId())
		}
	}
	slices.Sort(superseded)
	return &swarmv1.SessionReportAck{LeaderId: t.cfg.NodeID, Superseded: superseded, Refused: t.refusal(r.GetOpening(), now)}, nil
}

// refusal returns why a session must not begin; it is empty when the session may.
func (t *Tracker) refusal(opening *swarmv1.SessionEntry, now time.Time) string {
	if opening == nil {
		return ""
	}
	beat, _ := spec.SessionTiming(t.deps.Store.View().Cluster().GetSpec().GetDispatcher())
	t.sessions.report(t.deps.Sessions(now), now) // this manager's own sessions count too
	if host, ok := t.sessions.inUse(opening.GetNodeId(), opening.GetAddr(), now, spec.MissedHeartbeats*beat); ok {
		return NodeInUse(opening.GetNodeId(), "a host at "+host).Error()
	}
	return ""
}

// NodeInUse returns the AlreadyExists error for a second host that presents a node ID. where says
// which host has the ID.
func NodeInUse(nodeID, where string) error {
	return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf(
		"node id %s is already in use by %s (a cloned disk?): run `swarm leave --force` on one", nodeID, where))
}
