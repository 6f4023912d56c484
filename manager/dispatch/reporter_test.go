package dispatch

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// A session may end some time after the node was last heard, for example when a firewall cuts its
// connection. The session timeout counts from when the node was heard, not from the end.
func TestUnregister_SessionTimeoutCountsFromWhenTheNodeWasHeard(t *testing.T) {
	for _, why := range []error{errBroken, errdefs.ErrUnavailable} {
		for age, want := range map[time.Duration]swarmv1.NodeState_State{
			spec.DefaultSessionTimeout - time.Second: swarmv1.NodeState_READY,
			spec.DefaultSessionTimeout:               swarmv1.NodeState_DOWN,
		} {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t)})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.LeadLiveness(ctx) }()
				time.Sleep(time.Hour) // of leading
				state := &swarmv1.NodeState{NodeId: "cut", State: swarmv1.NodeState_READY, SessionEpoch: 1, Addr: "10.0.0.1"}
				for _, row := range []table.Row{&swarmv1.Node{Id: "cut"}, state} {
					if _, err := s.deps.Store.Commit(t.Context(), "join", table.Create(row)); err != nil {
						t.Fatal(err)
					}
				}
				x := newSession(s, state, nil)
				s.mu.Lock()
				s.sessions["cut"] = x
				s.mu.Unlock()
				x.mu.Lock()
				x.heard = time.Now().Add(-age)
				x.mu.Unlock()
				x.close(why)
				s.unregister(x)
				synctest.Wait()
				if st, _ := s.deps.Store.View().NodeStates.Get("cut"); st.GetState() != want {
					t.Errorf("%v: the node was last heard %s ago and is %s, want %s", why, age, st.GetState(), want)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A manager counts how long leaders have answered its reports. Three heartbeats without an answer
// end that time.
func TestReportSessions_CountsHowLongLeadersHaveAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t)})
		ctx, cancel := context.WithCancel(t.Context())
		term, endTerm := context.WithCancel(ctx)
		running, leading := make(chan error, 1), make(chan error, 1)
		go func() { running <- s.Run(ctx) }()
		go func() { leading <- s.LeadLiveness(term) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.inTouchFor(time.Now()); got < 59*time.Second || got > time.Minute {
			t.Errorf("after a minute: leaders have answered for %s", got)
		}
		endTerm()
		if err := <-leading; err != nil {
			t.Error(err)
		}
		time.Sleep((spec.MissedHeartbeats + 1) * spec.DefaultHeartbeat)
		synctest.Wait()
		if got := s.inTouchFor(time.Now()); got != 0 {
			t.Errorf("after more than three heartbeats without an answer: leaders have answered for %s", got)
		}
		cancel()
		if err := <-running; err != nil {
			t.Error(err)
		}
	})
}
