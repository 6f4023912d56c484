package dispatch

import (
	"log/slog"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
)

// A node that was admitted a moment ago, and that the leader has not looked at yet, has had no
// session: it is not ready, however young the leader's term is.
func TestJudgeAll_NewNodeIsNotReady(t *testing.T) {
	s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t)})
	s.tracker.start(time.Now())
	for _, row := range []raftstore.Row{
		&swarmv1.Node{Id: "joined"}, &swarmv1.NodeState{NodeId: "joined", State: swarmv1.NodeState_DOWN},
	} {
		if _, err := s.deps.Store.Commit(t.Context(), "join", raftstore.Create(row)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.judgeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, _ := s.deps.Store.View().NodeStates.Get("joined"); st.GetState() != swarmv1.NodeState_DOWN {
		t.Errorf("a node without a session is judged %s", st.GetState())
	}
}
