package dispatch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// sighting is the newest that is known of a node's sessions, by this manager's clock.
type sighting struct {
	epoch   uint64
	manager string
	addr    string
	heard   time.Time
	ended   bool
	broken  bool
	seeded  bool // from the store alone; any manager's word is better
	// departing: the node has said that its host goes down. It stays said for the session's epoch.
	departing bool
	// lease is the one that the worker holds; 0: not known.
	lease time.Duration
}

// tracker holds the evidence while this manager leads, and is idle otherwise.
type tracker struct {
	wake chan struct{} // capacity 1: the evidence has changed

	mu    sync.Mutex // guards the rest
	since time.Time  // of leadership; zero: not leading
	nodes map[string]sighting
	begun chan struct{} // closed while leading
}

func newTracker() *tracker {
	return &tracker{wake: make(chan struct{}, 1), begun: make(chan struct{})}
}

// leads waits until this manager's term has begun here; the store knows of it a moment earlier.
func (t *tracker) leads(ctx context.Context) {
	t.mu.Lock()
	begun := t.begun
	t.mu.Unlock()
	select {
	case <-begun:
	case <-ctx.Done():
	}
}

func (t *tracker) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tracker) start(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since, t.nodes = now, make(map[string]sighting)
	close(t.begun)
}

func (t *tracker) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since, t.nodes, t.begun = time.Time{}, nil, make(chan struct{})
}

// note takes in a sighting unless a newer session is known. Of one session the end is final, and the last word counts.
func (t *tracker) note(node string, s sighting) {
	old, ok := t.nodes[node]
	if ok && old.epoch == s.epoch && s.departing != old.departing {
		old.departing, s.departing = true, true
		t.nodes[node] = old
	}
	if ok && (old.epoch > s.epoch || !old.seeded && old.epoch == s.epoch && (old.ended && !s.ended || old.heard.After(s.heard) && old.ended == s.ended)) {
		return
	}
	t.nodes[node] = s
}

// report takes in a manager's word, and tells which of its sessions are superseded.
func (t *tracker) report(r *swarmv1.SessionReport, now time.Time) (leading bool, superseded []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since.IsZero() {
		return false, nil
	}
	for _, e := range r.GetSessions() {
		t.note(e.GetNodeId(), sighting{
			epoch: e.GetSessionEpoch(), manager: r.GetManagerId(), addr: e.GetAddr(),
			heard: now.Add(-time.Duration(e.GetAgeMs()) * time.Millisecond), ended: e.GetEnded(), broken: e.GetBroken(), departing: e.GetDeparting(),
			lease: e.GetLease().AsDuration(),
		})
		if t.nodes[e.GetNodeId()].epoch > e.GetSessionEpoch() && !e.GetEnded() {
			superseded = append(superseded, e.GetNodeId())
		}
	}
	return true, superseded
}

// inUse tells who serves a live session of the node from another host than addr.
func (t *tracker) inUse(node, addr string, now time.Time, grace time.Duration) (sighting, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.nodes[node]
	return s, ok && !s.ended && s.addr != "" && s.addr != addr && now.Sub(s.heard) < grace
}

// known brings the tracker in line with a view of the store, which is no older than the last one. An
// epoch that no report has told of yet was begun just now, by whichever manager, and a node that was
// not there has joined just now. A node that is gone is forgotten.
func (t *tracker) known(view *raftstore.View, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for st := range view.NodeStates.All() {
		if s, ok := t.nodes[st.GetNodeId()]; !ok || s.epoch < st.GetSessionEpoch() {
			t.nodes[st.GetNodeId()] = sighting{
				epoch: st.GetSessionEpoch(), heard: now, ended: st.GetState() != swarmv1.NodeState_READY, seeded: true,
			}
		}
	}
	maps.DeleteFunc(t.nodes, func(id string, _ sighting) bool {
		_, ok := view.NodeStates.Get(id)
		return !ok
	})
}

// evidence of one node.
func (t *tracker) evidence(st *swarmv1.NodeState, gossip GossipStatus, now time.Time) Evidence {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, leading := t.nodes[st.GetNodeId()], now.Sub(t.since)
	return Evidence{
		State: st.GetState(), Fenced: st.GetFenced(), Heard: min(now.Sub(s.heard), leading), Open: !s.ended, Broken: s.broken,
		Departing: s.departing, Gossip: gossip, Leading: leading, Lease: st.GetLease().AsDuration(),
	}
}

// shorterLease is the lease that the worker holds when the node's row still has a longer one of an earlier session, else 0.
func (t *tracker) shorterLease(st *swarmv1.NodeState) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.nodes[st.GetNodeId()]; s.epoch == st.GetSessionEpoch() && s.lease < st.GetLease().AsDuration() {
		return s.lease
	}
	return 0
}

// LeadLiveness decides which nodes are up for as long as this manager leads.
func (s *Server) LeadLiveness(ctx context.Context) error {
	s.tracker.start(time.Now())
	defer s.tracker.stop()
	view, w := s.deps.Store.Watch(raftstore.TableNode, raftstore.TableNodeState)
	defer w.Close()
	s.tracker.known(view, time.Now())
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
			s.tracker.nudge()
		}
	})
	g.Go(func() error { return s.judge(ctx) })
	return g.Wait()
}

// judge looks whenever the evidence has changed, and when time alone changes what follows from it.
func (s *Server) judge(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var members, verdicts <-chan struct{}
	for {
		if s.deps.Gossip != nil {
			members, verdicts = s.deps.Gossip.Changed() // before looking, so that no change is missed
		}
		next, err := s.judgeAll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.log.Warn("state of nodes was not stored", "err", err)
			next = commitPause
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-s.tracker.wake:
		case <-members:
		case <-verdicts:
		case <-ctx.Done():
			return nil
		}
	}
}

// judgeAll writes what follows for every node, and returns when to look again.
func (s *Server) judgeAll(ctx context.Context) (time.Duration, error) {
	now, view := time.Now(), s.deps.Store.View()
	// Of this very view: a node without a sighting would be taken for one with a session.
	s.tracker.known(view, now)
	s.tracker.report(s.sessionReport(now), now)
	beat, timeout := Pace(view.Cluster())
	next := timeout
	var groups []*swarmv1.Group
	for st := range view.NodeStates.All() {
		v := Judge(s.tracker.evidence(st, s.gossip(st.GetNodeId()), now), Limits{Beat: beat, Timeout: timeout})
		if v.Next > 0 {
			next = min(next, v.Next)
		}
		shorter := s.tracker.shorterLease(st)
		if v.State == st.GetState() && v.Fenced == st.GetFenced() && shorter == 0 {
			continue
		}
		row := st.CloneVT()
		row.Fenced = v.Fenced
		if shorter > 0 {
			row.Lease = durationpb.New(shorter)
		}
		if v.State != st.GetState() {
			row.State, row.Message, row.Since = v.State, v.Why, timestamppb.New(now)
			if st.GetState() == swarmv1.NodeState_READY {
				row.Up = durationpb.New(st.GetUp().AsDuration() + max(now.Sub(st.GetSince().AsTime()), 1))
			}
		}
		groups = append(groups, &swarmv1.Group{Changes: []*swarmv1.Change{raftstore.Update(row)}})
		s.note(st.GetNodeId(), "node state", "node", st.GetNodeId(), "state", v.State.String(), "why", v.Why)
	}
	if len(groups) == 0 {
		return next, nil
	}
	index, _, err := s.deps.Store.CommitGroups(ctx, "liveness", groups)
	if err != nil {
		return 0, err
	}
	// A rejected group met a session that began meanwhile: the row's change wakes this loop again.
	_, err = s.deps.Store.WaitIndex(ctx, index)
	return next, err
}

func (s *Server) gossip(node string) GossipStatus {
	if s.deps.Gossip == nil {
		return GossipUnknown
	}
	return s.deps.Gossip.Status(node)
}

// sessionReport is what this manager has to tell of its sessions. Ended ones are told of for as long as they matter.
func (s *Server) sessionReport(now time.Time) *swarmv1.SessionReport {
	_, timeout := Pace(s.deps.Store.View().Cluster())
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &swarmv1.SessionReport{ManagerId: s.cfg.NodeID}
	for id, x := range s.sessions {
		beat := x.lastBeat()
		r.Sessions = append(r.Sessions, &swarmv1.SessionEntry{
			NodeId: id, SessionEpoch: x.epoch, LastHeartbeat: timestamppb.New(beat), AgeMs: uint64(now.Sub(beat).Milliseconds()), Addr: x.addr,
			Departing: x.departing(), Lease: durationpb.New(x.leaseInForce()),
		})
	}
	maps.DeleteFunc(s.ended, func(_ string, e ending) bool { return now.Sub(e.heard) > 2*timeout })
	for id, e := range s.ended {
		r.Sessions = append(r.Sessions, &swarmv1.SessionEntry{
			NodeId: id, SessionEpoch: e.epoch, AgeMs: uint64(now.Sub(e.heard).Milliseconds()), Addr: e.addr, Ended: true, Broken: e.broken,
			Departing: e.departing,
		})
	}
	return r
}

// Report takes in a manager's sessions; only the leader can.
func (s *Server) Report(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if id := callerID(ctx); id != "" && id != r.GetManagerId() {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("manager %s reports for manager %s", id, r.GetManagerId()))
	}
	return s.hear(ctx, r)
}

// hear takes in a report, of another manager or of this one.
func (s *Server) hear(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	if s.deps.Store.IsLeader() {
		s.tracker.leads(ctx)
	}
	now := time.Now()
	leading, superseded := s.tracker.report(r, now)
	if !leading {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager does not lead: ask " + s.deps.Store.Leader())
	}
	s.tracker.nudge()
	// A leader that slept may have a successor, which has not heard of these sessions.
	if _, err := s.deps.Store.ReadIndex(ctx); err != nil || !s.deps.Store.IsLeader() {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager cannot confirm that it leads: ask again")
	}
	view := s.deps.Store.View()
	for _, e := range r.GetSessions() {
		// The lease of a node that was removed must not be renewed: from now on the planner waits for its end.
		if _, member := view.Nodes.Get(e.GetNodeId()); !member && !e.GetEnded() {
			superseded = append(superseded, e.GetNodeId())
		}
	}
	slices.Sort(superseded)
	return &swarmv1.SessionReportAck{LeaderId: s.cfg.NodeID, Superseded: superseded, Refused: s.refusal(r.GetOpening(), now)}, nil
}

// refusal says why a session must not begin.
func (s *Server) refusal(opening *swarmv1.SessionEntry, now time.Time) string {
	if opening == nil {
		return ""
	}
	beat, _ := Pace(s.deps.Store.View().Cluster())
	s.tracker.report(s.sessionReport(now), now) // the leader's own sessions are as good as any
	if live, ok := s.tracker.inUse(opening.GetNodeId(), opening.GetAddr(), now, missedBeats*beat); ok {
		return cloned(opening.GetNodeId(), "a host at "+live.addr).Error()
	}
	return ""
}
