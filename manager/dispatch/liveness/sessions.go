package liveness

import (
	"context"
	"maps"
	"sync"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// lastSession is what the leader knows of a node's newest session, by this manager's clock.
type lastSession struct {
	epoch  uint64
	addr   string // the worker's host, as the manager that serves the session sees it
	heard  time.Time
	ended  bool
	broken bool // it ended without a goodbye
	// presumed says that no manager has reported the session yet: it is known from the store alone,
	// and heard is only when reconcile found it there. Any report replaces it.
	presumed bool
	// departing says that the node has announced in this session that its host goes down. It stays
	// true until a newer session begins.
	departing bool
	// lease is the lease that the worker holds; 0 when it is not known.
	lease time.Duration
}

// lastSessions holds the newest session of each node while this manager leads. At other times it
// is empty.
type lastSessions struct {
	mu     sync.Mutex // guards the rest
	since  time.Time  // when this manager's term began; zero when it does not lead
	byNode map[string]lastSession
	begun  chan struct{} // closed while this manager leads
}

func newLastSessions() *lastSessions { return &lastSessions{begun: make(chan struct{})} }

// waitForTerm waits until beginTerm was called. The manager calls it a moment after the store says
// that this manager leads.
func (s *lastSessions) waitForTerm(ctx context.Context) {
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	select {
	case <-begun:
	case <-ctx.Done():
	}
}

func (s *lastSessions) beginTerm(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.byNode = now, make(map[string]lastSession)
	close(s.begun)
}

func (s *lastSessions) endTerm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.byNode, s.begun = time.Time{}, nil, make(chan struct{})
}

// merge takes in what a manager reports of a node's session, unless a newer session is known.
// Reports of one session may arrive out of order: the end of a session is final, and of two other
// reports the later one counts.
func (s *lastSessions) merge(node string, reported lastSession) {
	old, ok := s.byNode[node]
	switch {
	case ok && old.epoch > reported.epoch:
		return
	case !ok || old.epoch < reported.epoch || old.presumed:
		s.byNode[node] = reported
		return
	}
	oldIsNewer := old.heard.After(reported.heard)
	if old.ended != reported.ended {
		oldIsNewer = old.ended
	}
	newest := reported
	if oldIsNewer {
		newest = old
	}
	newest.departing = old.departing || reported.departing // perhaps only the older report says so
	s.byNode[node] = newest
}

// report takes in a manager's report, and returns the nodes whose session on that manager is
// superseded by a newer one. When this manager does not lead, it takes nothing in, and leading is
// false.
func (s *lastSessions) report(r *swarmv1.SessionReport, now time.Time) (leading bool, superseded []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since.IsZero() {
		return false, nil
	}
	for _, e := range r.GetSessions() {
		s.merge(e.GetNodeId(), lastSession{
			epoch: e.GetSessionEpoch(), addr: e.GetAddr(),
			heard: now.Add(-time.Duration(e.GetAgeMs()) * time.Millisecond), ended: e.GetEnded(), broken: e.GetBroken(), departing: e.GetDeparting(),
			lease: e.GetLease().AsDuration(),
		})
		if s.byNode[e.GetNodeId()].epoch > e.GetSessionEpoch() && !e.GetEnded() {
			superseded = append(superseded, e.GetNodeId())
		}
	}
	return true, superseded
}

// inUse reports whether a session of the node from another host than addr has been heard within
// grace, and from which host.
func (s *lastSessions) inUse(node, addr string, now time.Time, grace time.Duration) (host string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.byNode[node]
	return last.addr, ok && !last.ended && last.addr != "" && last.addr != addr && now.Sub(last.heard) < grace
}

// reconcile adds the sessions that are in the store and in no report yet, and forgets nodes that
// were removed. Such a session counts as heard now: some manager has begun it just now, or this
// manager's term has just begun. The view must not be older than the view of the previous call.
func (s *lastSessions) reconcile(view *table.View, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range view.NodeStates.All() {
		if last, ok := s.byNode[st.GetNodeId()]; !ok || last.epoch < st.GetSessionEpoch() {
			s.byNode[st.GetNodeId()] = lastSession{
				epoch: st.GetSessionEpoch(), heard: now, ended: st.GetState() != swarmv1.NodeState_READY, presumed: true,
			}
		}
	}
	maps.DeleteFunc(s.byNode, func(id string, _ lastSession) bool {
		_, ok := view.NodeStates.Get(id)
		return !ok
	})
}

// evidence returns what is known of one node that reconcile has seen. inTouchFor is the result of
// Deps.InTouchFor.
//
// The silence of a reported session counts from when the worker was last heard, also before this
// term. If it counted from the start of the term, a lost node would stay READY for as long as
// leaders change more often than every session timeout. The silence of a presumed session counts
// from the start of the term: the manager that served it does not report, so nobody knows when the
// worker was last heard.
func (s *lastSessions) evidence(st *swarmv1.NodeState, gossip GossipStatus, inTouchFor time.Duration, now time.Time) Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, leading := s.byNode[st.GetNodeId()], now.Sub(s.since)
	longest := leading // the longest silence that counts
	if !last.presumed {
		longest = max(leading, inTouchFor)
	}
	return Evidence{
		State: st.GetState(), Fenced: st.GetFenced(), Heard: min(now.Sub(last.heard), longest), Open: !last.ended, Broken: last.broken,
		Departing: last.departing, Gossip: gossip, Leading: leading, Lease: st.GetLease().AsDuration(),
	}
}

// shorterLease returns the lease that the worker holds if the node's row still has the longer lease
// of an earlier session. In all other cases it returns 0.
func (s *lastSessions) shorterLease(st *swarmv1.NodeState) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.byNode[st.GetNodeId()]; last.epoch == st.GetSessionEpoch() && last.lease < st.GetLease().AsDuration() {
		return last.lease
	}
	return 0
}
