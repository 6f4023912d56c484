package manager_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"swarm/manager/dispatch/liveness"
	swarmv1 "swarm/proto/swarm/v1"
)

// AwaitProgrammed returns once every node that is up has programmed all changes that the manager
// has committed.
func TestDispatch_AwaitProgrammedWaitsForEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one, two := r.join("h1"), r.join("h2")
		time.Sleep(time.Minute) // The manager's own node has no worker and counts as down by now.
		client := swarmv1.NewDispatcherClient(r.dial(nodeInfo(one.id)))
		ask := func(patience time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			_, err := client.AwaitProgrammed(ctx, &swarmv1.AwaitProgrammedRequest{})
			return time.Since(began), err
		}
		if _, err := ask(time.Second); err != nil {
			t.Errorf("AwaitProgrammed while no node is behind: %v", err)
		}
		two.silence()
		r.create(serviceSpec("web", 2))
		synctest.Wait()
		if _, err := ask(time.Second); err == nil {
			t.Error("AwaitProgrammed returned before a node had programmed its assignments")
		}
		time.AfterFunc(time.Second, two.speak)
		if took, err := ask(5 * time.Second); err != nil || took < time.Second || took > 2*time.Second {
			t.Errorf("AwaitProgrammed with a node that is behind for a second: got %v after %s, want no error after 1 to 2 s", err, took)
		}
		// AwaitProgrammed waits for a node that falls silent until the node counts as down.
		two.silence()
		time.Sleep(time.Second)
		r.gossip.say(two.id, liveness.GossipFailed)
		r.create(serviceSpec("api", 2))
		if took, err := ask(10 * time.Second); err != nil || took < time.Second || took > 5*time.Second {
			t.Errorf("a node fell silent and is %s: answered after %s, %v", r.state(two.id), took, err)
		}
		r.gossip.say(two.id, liveness.GossipAlive)
		two.speak()
		time.Sleep(2 * time.Second)
		if got := r.state(two.id); got != swarmv1.NodeState_READY {
			t.Fatalf("the node is %s", got)
		}
		// AwaitProgrammed waits for a node without a session until the node counts as down.
		two.cancel()
		synctest.Wait()
		if _, err := ask(time.Second); err == nil {
			t.Error("AwaitProgrammed returned while a node without a session was not down")
		}
		time.Sleep(time.Minute)
		if got := r.state(two.id); got != swarmv1.NodeState_DOWN {
			t.Fatalf("the node is %s", got)
		}
		if _, err := ask(time.Second); err != nil {
			t.Errorf("AwaitProgrammed while the node is down: %v", err)
		}
	})
}

// AwaitProgrammed does not wait long for a worker that keeps its session and programs nothing. It
// waits for the worker again once the worker has caught up.
func TestDispatch_AwaitProgrammedLeavesOutNodesThatLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one, two := r.join("h1"), r.join("h2")
		time.Sleep(time.Minute)
		client := swarmv1.NewDispatcherClient(r.dial(nodeInfo(one.id)))
		settled := func(what string, least, most time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			_, err := client.AwaitProgrammed(ctx, &swarmv1.AwaitProgrammedRequest{})
			if took := time.Since(began); err != nil || took < least || took > most {
				t.Errorf("%s: answered after %s, %v", what, took, err)
			}
		}
		two.delay()
		r.create(serviceSpec("web", 2))
		synctest.Wait()
		settled("it has just been told", time.Second, 4*time.Second)
		r.create(serviceSpec("api", 2))
		synctest.Wait()
		settled("it lags", 0, 100*time.Millisecond)
		if got := r.state(two.id); got != swarmv1.NodeState_READY {
			t.Errorf("the node is %s", got)
		}
		two.speak()
		r.create(serviceSpec("db", 2))
		synctest.Wait()
		settled("it has caught up", 0, 100*time.Millisecond)
		two.delay()
		r.create(serviceSpec("cache", 2))
		synctest.Wait()
		settled("it has been told anew", time.Second, 4*time.Second)
	})
}
