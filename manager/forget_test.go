package manager_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// The manager removes the node of a host whose join failed after the manager's answer. A node that
// had joined and is down stays until an operator removes it.
func TestManager_ForgetsWhoNeverCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		since := timestamppb.Now()
		for id, epoch := range map[string]uint64{"never": 0, "down": 1} {
			_, err := r.store.Commit(t.Context(), "test",
				table.Create(&swarmv1.Node{Id: id, MachineId: id, Addr: "10.0.0." + id[:1], Port: 2377, Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_WORKER}}),
				table.Create(&swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_UNKNOWN, SessionEpoch: epoch, Since: since}))
			if err != nil {
				t.Fatal(err)
			}
		}
		nodes := func() (ids []string) {
			for n := range r.store.View().Nodes.All() {
				ids = append(ids, n.GetId())
			}
			slices.Sort(ids)
			return ids
		}
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if st, _ := r.store.View().NodeStates.Get("never"); st.GetState() != swarmv1.NodeState_DOWN {
			t.Errorf("state of the node that never joined: got %v, want down", st)
		}
		if got := nodes(); !slices.Equal(got, []string{"down", self, "never"}) {
			t.Errorf("nodes within ten minutes: got %v, want down, never and the manager", got)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := nodes(); !slices.Equal(got, []string{"down", self}) {
			t.Errorf("nodes after ten minutes: got %v, want down and the manager", got)
		}
		if _, ok := r.store.View().NodeStates.Get("never"); ok {
			t.Error("the state of the removed node still exists")
		}
	})
}

// The cluster keeps a limited number of nodes that were up only for minutes, and removes those that
// have been down longest. It keeps nodes that were up for long, and nodes that have just gone down.
func TestManager_ForgetsGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		down := func(id string, up, ago time.Duration) {
			_, err := r.store.Commit(t.Context(), "test",
				table.Create(&swarmv1.Node{Id: id, MachineId: id, Addr: "host-" + id, Port: 2377, Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_WORKER}}),
				table.Create(&swarmv1.NodeState{
					NodeId: id, State: swarmv1.NodeState_DOWN, SessionEpoch: 1, Up: durationpb.New(up),
					Since: timestamppb.New(time.Now().Add(-ago)),
				}))
			if err != nil {
				t.Fatal(err)
			}
		}
		down("settled", 11*time.Minute, 30*24*time.Hour)
		down("oldest", time.Minute, 3*time.Hour)
		down("old", 9*time.Minute, 2*time.Hour)
		for i := range ca.KeptGuests {
			down(fmt.Sprint("recent", i), time.Minute, 0)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		left := map[string]bool{}
		for n := range r.store.View().Nodes.All() {
			left[n.GetId()] = true
		}
		if left["oldest"] || left["old"] || !left["settled"] || len(left) != 2+ca.KeptGuests {
			t.Errorf("nodes that remain: %d; oldest %t, old %t, settled %t; want settled, this manager and %d guests",
				len(left), left["oldest"], left["old"], left["settled"], ca.KeptGuests)
		}
	})
}

// The stored time that a node was up is the sum over its sessions. members.Guest uses it.
func TestManager_AddsUpHowLongANodeWasUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		for _, session := range []time.Duration{4 * time.Minute, 7 * time.Minute} {
			w := r.open(id, "host-a")
			time.Sleep(session)
			w.cancel()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		st, _ := r.store.View().NodeStates.Get(id)
		if up := st.GetUp().AsDuration(); st.GetState() != swarmv1.NodeState_DOWN || up < 11*time.Minute || up > 12*time.Minute {
			t.Errorf("a node with sessions of 4 and 7 minutes is %s and was up for %s", st.GetState(), up)
		}
	})
}
