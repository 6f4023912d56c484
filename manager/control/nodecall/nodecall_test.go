package nodecall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

func cluster(t *testing.T, rows ...table.Row) *raftstore.Store {
	store := raftstoretest.New(t)
	for _, r := range rows {
		if _, err := store.Commit(t.Context(), "test", table.Create(r)); err != nil {
			t.Fatal(err)
		}
	}
	return store
}

// A node that is not ready, cannot be reached, or does not answer has an error of its own.
func TestCaller_EachReportsEveryNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := cluster(t,
			&swarmv1.Node{Id: "n1", Hostname: "well"}, &swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY},
			&swarmv1.Node{Id: "n2", Hostname: "down"}, &swarmv1.NodeState{NodeId: "n2", State: swarmv1.NodeState_DOWN},
			&swarmv1.Node{Id: "n3", Hostname: "far"}, &swarmv1.NodeState{NodeId: "n3", State: swarmv1.NodeState_READY},
			&swarmv1.Node{Id: "n4", Hostname: "silent"}, &swarmv1.NodeState{NodeId: "n4", State: swarmv1.NodeState_READY},
		)
		c := New("n1", store, func(id string) (grpc.ClientConnInterface, error) {
			if id == "n3" {
				return nil, errors.New("no route to host")
			}
			return nil, nil
		})
		nodes, err := c.Select(store.View(), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]string, len(nodes))
		began := time.Now()
		c.Each(t.Context(), nodes, time.Minute, func(ctx context.Context, i int, _ grpc.ClientConnInterface, err error) {
			if nodes[i].GetId() == "n4" {
				<-ctx.Done()
				err = ctx.Err()
			}
			got[i] = nodes[i].GetHostname() + ": " + ErrorText(err)
		})
		want := []string{"down: it is down", "far: no route to host", "silent: context deadline exceeded", "well: "}
		if diff := cmp.Diff(want, got); diff != "" || time.Since(began) != time.Minute {
			t.Errorf("after %s, -want +got:\n%s", time.Since(began), diff)
		}
	})
}

func TestCaller_EachLimitsTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rows []table.Row
		for i := range maxParallel + 8 {
			id := fmt.Sprintf("n%02d", i)
			rows = append(rows, &swarmv1.Node{Id: id}, &swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY})
		}
		store := cluster(t, rows...)
		c := New("n00", store, func(string) (grpc.ClientConnInterface, error) { return nil, nil })
		var mu sync.Mutex // guards the rest
		running, most, calls := 0, 0, 0
		c.Each(t.Context(), slices.Collect(store.View().Nodes.All()), time.Minute, func(ctx context.Context, _ int, _ grpc.ClientConnInterface, _ error) {
			mu.Lock()
			running, calls = running+1, calls+1
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
		})
		if most != maxParallel || calls != maxParallel+8 {
			t.Errorf("%d calls, %d at the same time; want %d and %d", calls, most, maxParallel+8, maxParallel)
		}
	})
}

func TestCaller_FindKnowsSelf(t *testing.T) {
	v := raftstoretest.View([]proto.Message{&swarmv1.Node{Id: "n1", Hostname: "here"}, &swarmv1.Node{Id: "n2", Hostname: "there"}}...)
	c := New("n1", nil, nil)
	for ref, want := range map[string]string{"self": "n1", "there": "n2", "nowhere": ""} {
		if n, err := c.Find(v, ref); n.GetId() != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q, %v, want %q", ref, n.GetId(), err, want)
		}
	}
}
