package dispatch

import (
	"cmp"
	"fmt"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Evidence is what the leader knows of a node at one moment.
type Evidence struct {
	State swarmv1.NodeState_State
	// Fenced is what the node's row says.
	Fenced bool
	// Heard is how long ago the node was last heard in its newest session, whether that is over or not, by the manager that
	// serves it. Never more than Leading, for what happened before nobody here knows.
	Heard time.Duration
	// Open: the newest session is not known to be over.
	Open bool
	// Broken: it ended without a goodbye, the connection broke.
	Broken bool
	// Departing: in it the node has said that its host goes down.
	Departing bool
	Gossip    GossipStatus
	// Leading is how long this manager has led.
	Leading time.Duration
	// Lease is how long the node's single-writer tasks may run after a heartbeat; 0: for the session timeout.
	Lease time.Duration
}

// Limits are the cluster's.
type Limits struct {
	Beat    time.Duration
	Timeout time.Duration
}

// Verdict is what follows from the evidence.
type Verdict struct {
	State swarmv1.NodeState_State
	Why   string
	// Fenced: the node is down, and the lease of its single-writer tasks has run out.
	Fenced bool
	// Next is when, from now, the same evidence would say something else; 0: never.
	Next time.Duration
}

// Judge decides whether a node is up. It is the whole of the rule: gossip alone downs nobody, silence alone takes the
// session timeout, both together three heartbeats, and a broken connection counts at once when the host does not answer either:
// where it does, the daemon alone has died, the containers run on, and it has the session timeout to return. After a
// goodbye a failure that gossip sees is no news: a daemon that is restarted or upgraded has the session timeout to return. A leader
// that has led for less than three heartbeats declares nobody down. A node that says that its host goes down is down.
func Judge(e Evidence, l Limits) Verdict {
	v := judgeState(e, l)
	if v.State != swarmv1.NodeState_DOWN {
		return v
	}
	// The node counts from when it sent the last heartbeat that was confirmed, which was before it was
	// heard. What happened before this leader's term counts from its start.
	left := cmp.Or(e.Lease, l.Timeout) + spec.FenceMargin - e.Heard
	v.Fenced = e.Fenced || left <= 0
	if !v.Fenced && (v.Next == 0 || left < v.Next) {
		v.Next = left
	}
	return v
}

func judgeState(e Evidence, l Limits) Verdict {
	if e.Departing {
		return Verdict{State: swarmv1.NodeState_DOWN, Why: "its host is going down"}
	}
	grace := missedBeats * l.Beat
	dead := e.Gossip == GossipDead || e.Gossip == GossipLeft
	away := dead || e.Gossip == GossipFailed
	limit, why := l.Timeout, fmt.Sprintf("no session for %s", l.Timeout)
	switch {
	case e.Open && away:
		limit, why = grace, fmt.Sprintf("%d heartbeats missed, and gossip says %s", missedBeats, e.Gossip)
	case e.Open:
		why = fmt.Sprintf("no heartbeat for %s", l.Timeout)
	case dead && e.Broken:
		limit, why = 0, fmt.Sprintf("its connection broke, and gossip says %s", e.Gossip)
	case e.Gossip == GossipLeft:
		limit, why = grace, fmt.Sprintf("no session for %s, and gossip says %s", grace, e.Gossip)
	}
	wait := max(limit-e.Heard, grace-e.Leading)
	switch {
	case wait <= 0:
		return Verdict{State: swarmv1.NodeState_DOWN, Why: why}
	case e.Open && e.Heard < grace:
		return Verdict{State: swarmv1.NodeState_READY, Next: wait}
	}
	return Verdict{State: e.State, Next: wait}
}

// String is the word in messages.
func (s GossipStatus) String() string {
	switch s {
	case GossipAlive:
		return "alive"
	case GossipFailed:
		return "failed"
	case GossipLeft:
		return "left"
	case GossipDead:
		return "dead"
	default:
		return "nothing"
	}
}
