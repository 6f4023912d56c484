package liveness

import (
	"cmp"
	"fmt"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Evidence is what the leader knows of a node at one moment.
type Evidence struct {
	// State is the state in the node's row.
	State swarmv1.NodeState_State
	// Fenced is what the node's row says.
	Fenced bool
	// Heard is how long ago the node's newest session last heard from the worker, whether the
	// session is over or not, as the manager that serves or served it says. The time counts only as
	// far back as the managers have had a leader, because without a leader a worker cannot begin a
	// session. When no manager has reported the session, it counts from the start of this leader's
	// term at most.
	Heard time.Duration
	// Open says that the newest session is not known to be over.
	Open bool
	// Broken says that the session ended without a goodbye: the connection broke.
	Broken bool
	// Departing says that the node has announced in this session that its host goes down.
	Departing bool
	// Gossip is what the membership gossip says of the node.
	Gossip GossipStatus
	// Leading is how long this manager has led.
	Leading time.Duration
	// Lease is how long the node's single-writer tasks may run after a heartbeat. Zero means the
	// session timeout.
	Lease time.Duration
}

// Limits are the cluster's settings of sessions.
type Limits struct {
	Beat    time.Duration // heartbeat period
	Timeout time.Duration // session timeout
}

// Verdict is what follows from the evidence.
type Verdict struct {
	State swarmv1.NodeState_State
	// Why is the reason for the state DOWN, for users.
	Why string
	// Fenced says that the node is down and that the lease of its single-writer tasks has run out.
	Fenced bool
	// Next is the time from now after which the same evidence leads to another verdict. Zero means
	// never.
	Next time.Duration
}

// Judge decides whether a node is up, and whether a node that is down is fenced.
//
// Gossip alone takes no node down. Silence alone takes the session timeout. Silence of an open
// session takes three heartbeats when gossip says too that the node is away. A connection that
// broke counts at once when gossip says that the host does not answer either. When only the daemon
// has died, its containers run on, and it has the session timeout to return; the same holds after a
// goodbye, because a daemon that is restarted or upgraded says goodbye, and gossip then reports its
// failure as a matter of course. A leader that has led for less than three heartbeats takes no node
// down by any of these rules. A node whose host announced that it goes down is down.
func Judge(e Evidence, l Limits) Verdict {
	v := judgeState(e, l)
	if v.State != swarmv1.NodeState_DOWN {
		return v
	}
	// The lease counts from when the worker sent the last heartbeat that was confirmed to it. The
	// worker sent that heartbeat before it was heard, so that counting from then fences late, never
	// early. Two tasks of one slot would be worse than a late one, so that only time in this
	// leader's own term counts.
	left := cmp.Or(e.Lease, l.Timeout) + spec.FenceMargin - min(e.Heard, e.Leading)
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
	grace := spec.MissedHeartbeats * l.Beat
	dead := e.Gossip == GossipDead || e.Gossip == GossipLeft
	away := dead || e.Gossip == GossipFailed
	limit, why := l.Timeout, fmt.Sprintf("no session for %s", l.Timeout)
	switch {
	case e.Open && away:
		limit, why = grace, fmt.Sprintf("%d heartbeats missed, and gossip says %s", spec.MissedHeartbeats, e.Gossip)
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
