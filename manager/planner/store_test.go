package planner

import (
	"context"
	"testing"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// The real store accepts the planner's groups, and its changes lead to the same state as the model
// of the other tests.
func TestState_FollowsTheStore(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := raftstoretest.New(t)
	view, w := s.Watch()
	defer w.Close()
	state := cluster.New(view)

	complete, err := spec.Service(&swarmv1.ServiceSpec{
		Name:         "web",
		Mode:         &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: 700}}},
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "web:1"}},
		EndpointSpec: &swarmv1.EndpointSpec{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, "test",
		table.Create(&swarmv1.Node{Id: "n1", Spec: &swarmv1.NodeSpec{}}),
		table.Create(&swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY}),
		table.Create(spec.NextRevision("web", nil, 0, complete, spec.Author{Actor: "test"})),
		table.Create(&swarmv1.Service{Id: "web", Name: "web", Revision: 1})); err != nil {
		t.Fatal(err)
	}
	follow(t, ctx, s, w, state)
	if got := s.View().Tasks.Len(); got != 700 {
		t.Fatalf("tasks: got %d, want 700", got)
	}
	row, _ := s.View().Services.ByName("web")
	row = row.CloneVT()
	row.PendingDelete = true
	for task := range s.View().Tasks.All() {
		if _, err := s.Commit(ctx, "test", table.Report(&swarmv1.TaskStatus{TaskId: task.Id, State: swarmv1.TaskState_FAILED, SessionEpoch: 1})); err != nil {
			t.Fatal(err)
		}
		break
	}
	if _, err := s.Commit(ctx, "test", table.Update(row), table.Put(&swarmv1.Claim{Key: "port/ingress/tcp/80", Owner: "web"})); err != nil {
		t.Fatal(err)
	}
	node, _ := s.View().Nodes.Get("n1")
	if _, err := s.Commit(ctx, "test", table.Delete(node)); err != nil {
		t.Fatal(err)
	}
	follow(t, ctx, s, w, state)
	v := s.View()
	if n := v.Tasks.Len() + v.Statuses.Len() + v.Services.Len() + v.Revisions.Len() + v.Claims.Len(); n != 0 {
		t.Fatalf("rows left of a removed service: %d", n)
	}
}

// follow plans and commits until nothing is left to do, and then compares the state with a new one.
func follow(t *testing.T, ctx context.Context, s *raftstore.Store, w *watch.Watcher, state *cluster.State) {
	t.Helper()
	for {
		for {
			next, cancel := context.WithCancel(ctx)
			cancel()
			batch, err := w.Next(next)
			if err != nil {
				break // nothing left
			}
			state.Apply(batch.Changes)
		}
		res := New(state).Plan(state.Due(epoch), epoch)
		if len(res.Groups) == 0 {
			break
		}
		groups := make([]*swarmv1.Group, len(res.Groups))
		for i, g := range res.Groups {
			groups[i] = g.Proto()
		}
		index, results, err := s.CommitGroups(ctx, "planner", groups)
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range results {
			if err != nil {
				t.Fatalf("group %d of service %s: %v", i, res.Groups[i].Service, err)
			}
		}
		if _, err := s.WaitIndex(ctx, index); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := state.String(), cluster.New(s.View()).String(); got != want {
		t.Fatalf("the state kept up to date:\n%s\na new one:\n%s", got, want)
	}
}
