package task

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"slices"

	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps are what a Server needs.
type Deps struct {
	Log   *slog.Logger
	Store *raftstore.Store
	Nodes *nodecall.Caller
}

// Server serves the RPCs of tasks.
type Server struct {
	log   *slog.Logger
	store *raftstore.Store
	nodes *nodecall.Caller
	// forwards has an element for each connection that PortForward carries.
	forwards chan struct{}
}

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{log: deps.Log, store: deps.Store, nodes: deps.Nodes, forwards: make(chan struct{}, maxForwards)}
}

// GetTask returns a task.
func (s *Server) GetTask(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.TaskInfo, error) {
	v := s.store.View()
	t, err := object.Tasks().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return object.TaskInfo(v, t), nil
}

// ListTasks returns the tasks that the filter matches, ordered by service and slot. The newest task
// of a slot comes first.
func (s *Server) ListTasks(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListTasksResponse, error) {
	v := s.store.View()
	filter, err := object.ResolveFilter(v, req.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListTasksResponse{}
	for t := range candidates(v, filter) {
		info := object.TaskInfo(v, t)
		if crud.Matches(filter, object.TaskSubject(v, t, info.GetServiceName())) {
			out.Tasks = append(out.Tasks, info)
		}
	}
	slices.SortStableFunc(out.Tasks, compareTasks)
	return out, nil
}

// candidates yields the tasks that a filter may match, through an index if there is one.
func candidates(v *table.View, f *swarmv1.Filter) iter.Seq[*swarmv1.Task] {
	switch {
	case len(f.GetServiceIds()) == 1:
		return v.TasksOfService(f.GetServiceIds()[0])
	case len(f.GetNodeIds()) == 1:
		return v.TasksOnNode(f.GetNodeIds()[0])
	}
	return v.Tasks.All()
}

func compareTasks(a, b *swarmv1.TaskInfo) int {
	if c := cmp.Compare(a.GetServiceName(), b.GetServiceName()); c != 0 {
		return c
	}
	if c := cmp.Compare(a.GetTask().GetSlot(), b.GetTask().GetSlot()); c != 0 {
		return c
	}
	if a.GetTask().GetSlot() == 0 {
		if c := cmp.Compare(a.GetNodeName(), b.GetNodeName()); c != 0 {
			return c
		}
	}
	at, bt := a.GetTask().GetMeta().GetCreatedAt().AsTime(), b.GetTask().GetMeta().GetCreatedAt().AsTime()
	if c := bt.Compare(at); c != 0 {
		return c
	}
	return cmp.Compare(a.GetTask().GetId(), b.GetTask().GetId())
}
