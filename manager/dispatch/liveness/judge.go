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
	// Heard is how long ago the worker was last heard in the node's newest session, even if that
	// session is over. It counts only time in which this manager was in touch with a leader
	// (Deps.InTouchFor) or led, because without a leader a worker cannot begin a session. If no
	// manager has reported the session, it counts only time in which this manager led.
	Heard time.Duration
	// Open says that the newest session goes on, as far as the leader knows.
	Open bool
	// Broken says that the session ended because the connection broke, and not with a goodbye: a
	// worker says goodbye by closing its stream.
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
//   - A node whose host has announced that it goes down is down.
//   - Gossip alone takes no node down.
//   - A silent node is down after the session timeout. If its session is still open and gossip says
//     too that the node is away, it is down after three heartbeat periods.
//   - A node whose connection broke is down at once if gossip says that its host does not answer
//     either, or that the node has left.
//   - If only the daemon has died, its containers run on, and the daemon has the session timeout to
//     return. The same holds after a goodbye, because a daemon that is restarted or upgraded says
//     goodbye too. If gossip says that the node has left, it has three heartbeat periods.
//   - A leader that has led for less than three heartbeat periods takes no node down by silence or
//     gossip.
func Judge(e Evidence, l Limits) Verdict {
	v := judgeState(e, l)
	if v.State != swarmv1.NodeState_DOWN {
		return v
	}
	// The lease counts from when the worker sent the last heartbeat that was confirmed to it. That
	// was before the manager heard the heartbeat, so counting from the hearing fences late, never
	// early. Only time in this leader's own term counts, because two tasks of one slot are worse
	// than a late replacement.
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
	// The state stays: a node that is up while its limit has not passed, because its session has
	// ended or is silent, and a node that is down until its next session is heard.
	return Verdict{State: e.State, Next: wait}
}
