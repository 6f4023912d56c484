package liveness

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
)

// newDetector returns the Detector of a manager without sessions.
func newDetector(t *testing.T) *Detector {
	return New(Config{NodeID: "m1"}, Deps{
		Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t), Note: func(string, string, ...any) {},
		Sessions: func(time.Time) *swarmv1.SessionReport { return &swarmv1.SessionReport{ManagerId: "m1"} },
	})
}

// A node that was admitted a moment ago, and that the leader has not looked at yet, has had no
// session: it is not ready, however young the leader's term is.
func TestJudgeAll_NewNodeIsNotReady(t *testing.T) {
	d := newDetector(t)
	d.sessions.beginTerm(time.Now())
	for _, row := range []raftstore.Row{
		&swarmv1.Node{Id: "joined"}, &swarmv1.NodeState{NodeId: "joined", State: swarmv1.NodeState_DOWN},
	} {
		if _, err := d.deps.Store.Commit(t.Context(), "join", raftstore.Create(row)); err != nil {
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

// A node that joins in the middle of a term has as long for its first session as any other.
func TestJudgeAll_NewNodeHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDetector(t)
		d.sessions.beginTerm(time.Now())
		time.Sleep(time.Hour)
		if _, err := d.deps.Store.Commit(t.Context(), "join", raftstore.Create(&swarmv1.NodeState{NodeId: "joined", Message: "joined, and has not reported yet"})); err != nil {
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
