package dispatch

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
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

// A session ends some time after the node was last heard, with a connection that a firewall cuts. The session timeout counts
// from when the node was heard, and is not waited for a second time.
func TestJudgeAll_CountsFromWhenTheNodeWasHeard(t *testing.T) {
	for _, why := range []error{errBroken, errdefs.ErrUnavailable} {
		for age, want := range map[time.Duration]swarmv1.NodeState_State{
			spec.DefaultSessionTimeout - time.Second: swarmv1.NodeState_READY,
			spec.DefaultSessionTimeout:               swarmv1.NodeState_DOWN,
		} {
			s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t)})
			s.tracker.start(time.Now().Add(-time.Hour))
			state := &swarmv1.NodeState{NodeId: "cut", State: swarmv1.NodeState_READY, SessionEpoch: 1, Addr: "10.0.0.1"}
			for _, row := range []raftstore.Row{
				&swarmv1.Node{Id: "cut"}, state,
			} {
				if _, err := s.deps.Store.Commit(t.Context(), "join", raftstore.Create(row)); err != nil {
					t.Fatal(err)
				}
			}
			x := newSession(s, state, nil)
			s.sessions["cut"] = x
			x.beat = time.Now().Add(-age)
			x.close(why)
			s.finish(x)
			if _, err := s.judgeAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, _ := s.deps.Store.View().NodeStates.Get("cut"); st.GetState() != want {
				t.Errorf("%v: the node was last heard %s ago and is %s, want %s", why, age, st.GetState(), want)
			}
		}
	}
}

// A node that joins in the middle of a term has as long for its first session as any other.
func TestJudgeAll_NewNodeHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t)})
		s.tracker.start(time.Now())
		time.Sleep(time.Hour)
		if _, err := s.deps.Store.Commit(t.Context(), "join", raftstore.Create(&swarmv1.NodeState{NodeId: "joined", Message: "joined, and has not reported yet"})); err != nil {
			t.Fatal(err)
		}
		for _, want := range []swarmv1.NodeState_State{swarmv1.NodeState_UNKNOWN, swarmv1.NodeState_UNKNOWN, swarmv1.NodeState_DOWN} {
			if _, err := s.judgeAll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st, _ := s.deps.Store.View().NodeStates.Get("joined"); st.GetState() != want {
				t.Errorf("got %s (%s), want %s", st.GetState(), st.GetMessage(), want)
			}
			time.Sleep(9 * time.Second)
		}
	})
}
