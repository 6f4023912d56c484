package liveness

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// newTracker returns the Tracker of a manager without sessions.
func newTracker(t *testing.T) *Tracker {
	return New(Config{NodeID: "m1"}, Deps{
		Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t), Note: func(string, string, ...any) {},
		Sessions:   func(time.Time) *swarmv1.SessionReport { return &swarmv1.SessionReport{ManagerId: "m1"} },
		InTouchFor: func(time.Time) time.Duration { return 0 },
	})
}

// A node that has just been admitted has had no session. The first look of a leader does not make
// it READY, however young the leader's term is.
func TestJudgeAll_NewNodeIsNotReady(t *testing.T) {
	d := newTracker(t)
	d.sessions.beginTerm(time.Now())
	for _, row := range []table.Row{
		&swarmv1.Node{Id: "joined"}, &swarmv1.NodeState{NodeId: "joined", State: swarmv1.NodeState_DOWN},
	} {
		if _, err := d.deps.Store.Commit(t.Context(), "join", table.Create(row)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.judgeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, _ := d.deps.Store.View().NodeStates.Get("joined"); st.GetState() != swarmv1.NodeState_DOWN {
		t.Errorf("a node without a session is judged %s", st.GetState())
	}
}

// A node that joins in the middle of a term has the full session timeout for its first session.
func TestJudgeAll_NewNodeHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newTracker(t)
		d.sessions.beginTerm(time.Now())
		time.Sleep(time.Hour)
		if _, err := d.deps.Store.Commit(t.Context(), "join", table.Create(&swarmv1.NodeState{NodeId: "joined", Message: "joined, and has not reported yet"})); err != nil {
			t.Fatal(err)
		}
		for _, want := range []swarmv1.NodeState_State{swarmv1.NodeState_UNKNOWN, swarmv1.NodeState_UNKNOWN, swarmv1.NodeState_DOWN} {
			if _, err := d.judgeAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, _ := d.deps.Store.View().NodeStates.Get("joined"); st.GetState() != want {
				t.Errorf("got %s (%s), want %s", st.GetState(), st.GetMessage(), want)
			}
			time.Sleep(9 * time.Second)
		}
	})
}

// Leaders change every four seconds. A node whose session has ended and that has no other one goes
// down nevertheless after the session timeout. A node stays up when its worker could not begin
// another session, because there was no leader before this term, and when no manager knows when it
// was heard.
func TestJudgeAll_LeadersThatChangeOften(t *testing.T) {
	const term, never = 4 * time.Second, time.Duration(0)
	for name, tt := range map[string]struct {
		hadLeaders, isReported bool
		want                   time.Duration // after the node was last heard
	}{
		"there was a leader":                          {true, true, spec.DefaultSessionTimeout + time.Second},
		"there was none before each":                  {false, true, never},
		"the manager that served the session is gone": {true, false, never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newTracker(t)
				heard, began := time.Now(), time.Now()
				if tt.isReported {
					d.deps.Sessions = func(now time.Time) *swarmv1.SessionReport {
						return &swarmv1.SessionReport{ManagerId: "m1", Sessions: []*swarmv1.SessionEntry{
							{NodeId: "gone", SessionEpoch: 1, Ended: true, AgeMs: uint64(now.Sub(heard).Milliseconds())},
						}}
					}
				}
				d.deps.InTouchFor = func(now time.Time) time.Duration {
					if tt.hadLeaders {
						return time.Hour
					}
					return now.Sub(began)
				}
				for _, row := range []table.Row{
					&swarmv1.Node{Id: "gone"}, &swarmv1.NodeState{NodeId: "gone", State: swarmv1.NodeState_READY, SessionEpoch: 1},
				} {
					if _, err := d.deps.Store.Commit(t.Context(), "join", table.Create(row)); err != nil {
						t.Fatal(err)
					}
				}
				down := never
				for time.Since(heard) < time.Minute && down == never {
					began = time.Now()
					d.sessions.beginTerm(began)
					for time.Since(began) < term && down == never {
						if _, err := d.judgeAll(t.Context()); err != nil {
							t.Fatal(err)
						}
						st, _ := d.deps.Store.View().NodeStates.Get("gone")
						if st.GetFenced() {
							t.Fatalf("fenced %s after the start of the term", time.Since(began))
						}
						if st.GetState() == swarmv1.NodeState_DOWN {
							down = time.Since(heard)
						}
						time.Sleep(time.Second)
					}
					d.sessions.endTerm()
				}
				if down != tt.want {
					t.Errorf("down %s after it was last heard, want %s (0: never)", down, tt.want)
				}
			})
		})
	}
}
