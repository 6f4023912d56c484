package liveness

import (
	"testing"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestJudge(t *testing.T) {
	const (
		ready = swarmv1.NodeState_READY
		down  = swarmv1.NodeState_DOWN
		never = swarmv1.NodeState_UNKNOWN
	)
	limits := Limits{Beat: time.Second, Timeout: 10 * time.Second}
	long := time.Hour
	tests := []struct {
		name string
		in   Evidence
		want swarmv1.NodeState_State
		next time.Duration
	}{
		{"heard just now", Evidence{State: ready, Open: true, Gossip: GossipAlive, Leading: long}, ready, 10 * time.Second},
		{"gossip alone takes no node down", Evidence{State: ready, Open: true, Heard: time.Second, Gossip: GossipFailed, Leading: long}, ready, 2 * time.Second},
		{"gossip that left takes no node down that is heard", Evidence{State: ready, Open: true, Heard: time.Second, Gossip: GossipLeft, Leading: long}, ready, 2 * time.Second},
		{"silence and gossip", Evidence{State: ready, Open: true, Heard: 3 * time.Second, Gossip: GossipFailed, Leading: long}, down, 0},
		{"silence alone waits", Evidence{State: ready, Open: true, Heard: 9 * time.Second, Gossip: GossipAlive, Leading: long}, ready, time.Second},
		{"silence alone ends", Evidence{State: ready, Open: true, Heard: 10 * time.Second, Gossip: GossipAlive, Leading: long}, down, 0},
		{"goodbye waits for the next session", Evidence{State: ready, Heard: 2 * time.Second, Gossip: GossipAlive, Leading: long}, ready, 8 * time.Second},
		{"goodbye and gossip failed: it restarts", Evidence{State: ready, Heard: 3 * time.Second, Gossip: GossipFailed, Leading: long}, ready, 7 * time.Second},
		{"goodbye and gossip left", Evidence{State: ready, Heard: 3 * time.Second, Gossip: GossipLeft, Leading: long}, down, 0},
		{"no session for too long", Evidence{State: ready, Heard: 10 * time.Second, Gossip: GossipAlive, Leading: long}, down, 0},
		{"broken and neither node nor host answers: at once", Evidence{State: ready, Broken: true, Gossip: GossipDead, Leading: long}, down, 0},
		{"broken and the host answers: a daemon that died returns", Evidence{State: ready, Broken: true, Heard: 4 * time.Second, Gossip: GossipFailed, Leading: long}, ready, 6 * time.Second},
		{"silence and neither node nor host answers", Evidence{State: ready, Open: true, Heard: 3 * time.Second, Gossip: GossipDead, Leading: long}, down, 0},
		{"departing counts at once", Evidence{State: ready, Open: true, Gossip: GossipAlive, Departing: true}, down, 0},
		{"departed stays down", Evidence{State: down, Departing: true, Gossip: GossipLeft, Leading: long}, down, 0},
		{"broken alone waits", Evidence{State: ready, Broken: true, Gossip: GossipAlive, Leading: long}, ready, 10 * time.Second},
		{"a new leader waits", Evidence{State: ready, Broken: true, Gossip: GossipDead, Leading: time.Second}, ready, 2 * time.Second},
		{"a new leader waits for the silent", Evidence{State: ready, Open: true, Heard: time.Second, Gossip: GossipFailed, Leading: time.Second}, ready, 2 * time.Second},
		{"joined and never heard", Evidence{State: never, Heard: time.Second, Leading: long}, never, 9 * time.Second},
		{"joined and never came", Evidence{State: never, Heard: 10 * time.Second, Leading: long}, down, 0},
		{"down and heard again", Evidence{State: down, Open: true, Heard: time.Second, Gossip: GossipAlive, Leading: long}, ready, 9 * time.Second},
		{"down and silent", Evidence{State: down, Heard: long, Gossip: GossipFailed, Leading: long}, down, 0},
		{"gossip not known", Evidence{State: ready, Open: true, Heard: 5 * time.Second, Leading: long}, ready, 5 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Judge(tt.in, limits)
			if tt.want == down { // until its lease has surely run out, and the shims have had their time
				tt.next = max(limits.Timeout+spec.FenceMargin-tt.in.Heard, 0)
				if want := tt.next == 0; got.Fenced != want {
					t.Errorf("Judge(%+v): got fenced %t, want %t", tt.in, got.Fenced, want)
				}
			} else if got.Fenced {
				t.Error("a node that is not down is fenced")
			}
			if got.State != tt.want || got.Next != tt.next {
				t.Errorf("Judge(%+v) = %s next %s, want %s next %s", tt.in, got.State, got.Next, tt.want, tt.next)
			}
			if got.State == down && got.Why == "" {
				t.Error("a node is down without a reason")
			}
		})
	}
}

// A node is fenced by the lease that its worker was granted, whatever the session timeout is now.
func TestJudge_FencesByTheLeaseOfTheNode(t *testing.T) {
	limits := Limits{Beat: time.Second, Timeout: 10 * time.Second}
	for _, lease := range []time.Duration{5 * time.Second, 30 * time.Second} {
		e := Evidence{State: swarmv1.NodeState_DOWN, Lease: lease, Leading: time.Hour, Heard: max(lease, limits.Timeout)}
		if lease > limits.Timeout {
			if v := Judge(e, limits); v.Fenced || v.Next != spec.FenceMargin {
				t.Errorf("lease %s, heard that long ago: got %+v, want not fenced for %s", lease, v, spec.FenceMargin)
			}
			e.Heard += spec.FenceMargin
		}
		if v := Judge(e, limits); !v.Fenced {
			t.Errorf("lease %s, heard %s ago: got %+v, want fenced", lease, e.Heard, v)
		}
	}
}

// Evidence that grows older never makes a node READY again, and Next is the time at which the
// verdict changes.
func TestJudge_TimeOnlyMovesOneWay(t *testing.T) {
	limits := Limits{Beat: time.Second, Timeout: 10 * time.Second}
	for _, gossip := range []GossipStatus{GossipUnknown, GossipAlive, GossipFailed, GossipLeft, GossipDead} {
		for bits := range 4 {
			base := Evidence{State: swarmv1.NodeState_READY, Open: bits&1 != 0, Broken: bits&2 != 0, Gossip: gossip}
			if base.Open && base.Broken {
				continue
			}
			at := func(d time.Duration) Verdict {
				e := base
				e.Heard, e.Leading = d, d
				return Judge(e, limits)
			}
			first := at(0)
			if first.State != swarmv1.NodeState_READY || first.Next <= 0 {
				t.Fatalf("%+v at once: %+v", base, first)
			}
			if v := at(first.Next - time.Millisecond); v.State != swarmv1.NodeState_READY {
				t.Errorf("%+v is %s before its time", base, v.State)
			}
			for d := first.Next; d < 30*time.Second; d += 500 * time.Millisecond {
				if v := at(d); v.State != swarmv1.NodeState_DOWN {
					t.Errorf("%+v after %s is %s", base, d, v.State)
				}
			}
		}
	}
}
