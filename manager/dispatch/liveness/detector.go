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

// Deps are what a Detector needs. Gossip may be nil; the others must be set.
type Deps struct {
	Log    *slog.Logger
	Store  *raftstore.Store
	Gossip Gossip
	// Sessions returns the report of this manager's own sessions.
	Sessions func(now time.Time) *swarmv1.SessionReport
	// LedFor returns how long this manager has had answers of a leader, of whichever one, without a
	// gap of three heartbeats. It is 0 while there is such a gap.
	LedFor func(now time.Time) time.Duration
	// Note logs what happened to a node, at a bounded rate for each node.
	Note func(nodeID, msg string, args ...any)
}

// Detector gathers what all managers report of their sessions while this manager leads, and writes
// the states of nodes. It serves swarmv1.Liveness.
type Detector struct {
	swarmv1.UnimplementedLivenessServer
	cfg      Config
	deps     Deps
	log      *slog.Logger
	sessions *sessions
	wake     chan struct{} // capacity 1: the evidence has changed
}

// New returns a Detector, which takes in reports while Lead runs.
func New(cfg Config, deps Deps) *Detector {
	return &Detector{cfg: cfg, deps: deps, log: deps.Log, sessions: newSessions(), wake: make(chan struct{}, 1)}
}

// Reconsider makes Lead judge all nodes again now. While Lead does not run, the call has no effect.
func (d *Detector) Reconsider() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Lead decides which nodes are up until ctx ends. The manager calls it while it leads. It returns
// an error when it cannot follow the store; it may be called again.
func (d *Detector) Lead(ctx context.Context) error {
	d.sessions.beginTerm(time.Now())
	defer d.sessions.endTerm()
	view, w := d.deps.Store.Watch(table.Node, table.NodeState)
	defer w.Close()
	d.sessions.reconcile(view, time.Now())
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
			d.Reconsider()
		}
	})
	g.Go(func() error { return d.judge(ctx) })
	return g.Wait()
}

// judge looks at all nodes whenever the evidence has changed, and when time alone changes a
// verdict.
func (d *Detector) judge(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var members, verdicts <-chan struct{}
	for {
		if d.deps.Gossip != nil {
			members, verdicts = d.deps.Gossip.Changed() // before the look, so that no change is missed
		}
		next, err := d.judgeAll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			d.log.Warn("state of nodes was not stored", "err", err)
			next = writeRetry
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-d.wake:
		case <-members:
		case <-verdicts:
		case <-ctx.Done():
			return nil
		}
	}
}

// judgeAll writes what follows for every node, and returns the time after which to look again.
func (d *Detector) judgeAll(ctx context.Context) (time.Duration, error) {
	now, view := time.Now(), d.deps.Store.View()
	// A node of this view that is not among the sessions would be taken for one with an open
	// session.
	d.sessions.reconcile(view, now)
	d.sessions.report(d.deps.Sessions(now), now)
	beat, timeout := spec.SessionTiming(view.Cluster().GetSpec().GetDispatcher())
	next, ledFor := timeout, d.deps.LedFor(now)
	var groups []*swarmv1.Group
	for st := range view.NodeStates.All() {
		v := Judge(d.sessions.evidence(st, d.gossip(st.GetNodeId()), ledFor, now), Limits{Beat: beat, Timeout: timeout})
		if v.Next > 0 {
			next = min(next, v.Next)
		}
		row := applyVerdict(st, v, d.sessions.shorterLease(st), now)
		if row == nil {
			continue
		}
		groups = append(groups, &swarmv1.Group{Changes: []*swarmv1.Change{table.Update(row)}})
		d.deps.Note(st.GetNodeId(), "node state", "node", st.GetNodeId(), "state", v.State.String(), "why", v.Why)
	}
	if len(groups) == 0 {
		return next, nil
	}
	index, _, err := d.deps.Store.CommitGroups(ctx, "liveness", groups)
	if err != nil {
		return 0, err
	}
	// A group is rejected when a session began meanwhile. That changed the row, which wakes judge.
	_, err = d.deps.Store.WaitIndex(ctx, index)
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

func (d *Detector) gossip(node string) GossipStatus {
	if d.deps.Gossip == nil {
		return GossipUnknown
	}
	return d.deps.Gossip.Status(node)
}

// Report takes in another manager's report of its sessions. It returns PermissionDenied when the
// caller reports for somebody else, and Unavailable when this manager does not lead or cannot
// confirm that it does.
func (d *Detector) Report(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if who, err := transport.FromContext(ctx); err == nil && who.NodeID() != "" && who.NodeID() != r.GetManagerId() {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("manager %s reports for manager %s", who.NodeID(), r.GetManagerId()))
	}
	return d.TakeReport(ctx, r)
}

// TakeReport takes in a report, of another manager or of this one. It returns Unavailable when this
// manager does not lead or cannot confirm that it does.
func (d *Detector) TakeReport(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if d.deps.Store.IsLeader() {
		d.sessions.waitForTerm(ctx)
	}
	now := time.Now()
	leading, superseded := d.sessions.report(r, now)
	if !leading {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager does not lead: ask " + d.deps.Store.Leader())
	}
	d.Reconsider()
	// A leader whose process was suspended may have a successor, which has not heard of these
	// sessions.
	if _, err := d.deps.Store.ReadIndex(ctx); err != nil || !d.deps.Store.IsLeader() {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager cannot confirm that it leads: ask again")
	}
	view := d.deps.Store.View()
	for _, e := range r.GetSessions() {
		// The lease of a node that was removed must not be renewed: the planner waits for its end.
		if _, member := view.Nodes.Get(e.GetNodeId()); !member && !e.GetEnded() {
			superseded = append(superseded, e.GetNodeId())
		}
	}
	slices.Sort(superseded)
	return &swarmv1.SessionReportAck{LeaderId: d.cfg.NodeID, Superseded: superseded, Refused: d.refusal(r.GetOpening(), now)}, nil
}

// refusal returns why a session must not begin; it is empty when the session may.
func (d *Detector) refusal(opening *swarmv1.SessionEntry, now time.Time) string {
	if opening == nil {
		return ""
	}
	beat, _ := spec.SessionTiming(d.deps.Store.View().Cluster().GetSpec().GetDispatcher())
	d.sessions.report(d.deps.Sessions(now), now) // this manager's own sessions count too
	if host, ok := d.sessions.inUse(opening.GetNodeId(), opening.GetAddr(), now, spec.MissedHeartbeats*beat); ok {
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
