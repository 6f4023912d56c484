// Package stats serves swarmv1.Stats: what the containers and the nodes of the cluster use at this
// moment, and the processes of a container.
//
// Any manager answers for all nodes: it asks each node that has tasks of the request, once a second
// for each caller, and passes the counters on. It stores nothing. Callers compute rates from two
// answers, so a node's answer does not depend on who asked before.
package stats

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/bounds"
	"swarm/internal/explain"
	"swarm/internal/pause"
	"swarm/manager/control/crud"
	"swarm/manager/control/nodecall"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// interval is the time between the beginnings of two rounds.
	interval = time.Second
	// usageTimeout and processesTimeout limit the call to one node. A node that hangs delays the
	// rounds by usageTimeout until it counts as down.
	usageTimeout     = 2 * time.Second
	processesTimeout = 10 * time.Second
	// maxRefs limits a request.
	maxRefs = 1000
)

// Deps are what a Server needs.
type Deps struct {
	Store *raftstore.Store
	Nodes *nodecall.Caller
}

// Server implements swarmv1.StatsServer.
type Server struct {
	swarmv1.UnimplementedStatsServer
	store *raftstore.Store
	nodes *nodecall.Caller
}

// New makes a Server.
func New(deps Deps) *Server { return &Server{store: deps.Store, nodes: deps.Nodes} }

// WatchStats implements swarmv1.StatsServer. Tasks that start later are in the later rounds. A
// reference to an object that is removed later is ignored from then on.
func (s *Server) WatchStats(req *swarmv1.WatchStatsRequest, stream grpc.ServerStreamingServer[swarmv1.WatchStatsResponse]) error {
	ctx := stream.Context()
	if len(req.GetRefs()) > maxRefs {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%d services and tasks are named: name at most %d, or none for all", len(req.GetRefs()), maxRefs))
	}
	v := s.store.View()
	for _, ref := range req.GetRefs() {
		if _, err := find(v, ref); err != nil {
			return err
		}
	}
	nodes, err := s.nodes.Select(v, req.GetNodes())
	if err != nil {
		return err
	}
	for {
		next := time.Now().Add(interval)
		if len(req.GetNodes()) == 0 {
			if nodes, err = s.nodes.Select(s.store.View(), nil); err != nil {
				return err
			}
		}
		if err := stream.Send(s.round(ctx, req, nodes)); err != nil {
			return err
		}
		if err := pause.For(ctx, time.Until(next)); err != nil {
			return err
		}
	}
}

func find(v *table.View, ref string) (crud.Object, error) {
	return crud.FindAny(ref, object.Tasks().In(v), object.Services().In(v))
}

// selected returns the tasks of a request. A task that the request names is in the result even if
// it does not run.
func selected(v *table.View, req *swarmv1.WatchStatsRequest) map[string]*swarmv1.Task {
	out := map[string]*swarmv1.Task{}
	add := func(t *swarmv1.Task) {
		if req.GetAll() || running(v, t) {
			out[t.GetId()] = t
		}
	}
	if len(req.GetRefs()) == 0 {
		for t := range v.Tasks.All() {
			add(t)
		}
	}
	for _, ref := range req.GetRefs() {
		found, err := find(v, ref)
		if err != nil { // It was removed since the first round.
			continue
		}
		if t, ok := found.(*swarmv1.Task); ok {
			out[t.GetId()] = t
			continue
		}
		for t := range v.TasksOfService(found.GetId()) {
			add(t)
		}
	}
	return out
}

func running(v *table.View, t *swarmv1.Task) bool {
	st := v.Status(t.GetId()).GetState()
	return st == swarmv1.TaskState_RUNNING || st == swarmv1.TaskState_STARTING
}

// round asks the nodes once.
func (s *Server) round(ctx context.Context, req *swarmv1.WatchStatsRequest, nodes []*swarmv1.Node) *swarmv1.WatchStatsResponse {
	v := s.store.View()
	tasks := map[string][]*swarmv1.TaskStats{} // by node
	for _, t := range selected(v, req) {
		tasks[t.GetNodeId()] = append(tasks[t.GetNodeId()], taskStats(v, t))
	}
	hosts := make([]*swarmv1.HostStats, len(nodes))
	s.nodes.Each(ctx, nodes, usageTimeout, func(ctx context.Context, i int, conn grpc.ClientConnInterface, err error) {
		id := nodes[i].GetId()
		hosts[i] = &swarmv1.HostStats{NodeId: id, Name: object.NodeName(v, id)}
		if err == nil {
			hosts[i].Usage, err = usage(ctx, conn, v, tasks[id])
		}
		hosts[i].Error = nodecall.ErrorText(err)
	})
	out := &swarmv1.WatchStatsResponse{Nodes: hosts}
	for _, n := range nodes {
		out.Tasks = append(out.Tasks, tasks[n.GetId()]...)
	}
	if len(req.GetNodes()) == 0 {
		out.Tasks = append(out.Tasks, tasks[""]...) // Tasks that no node has yet.
	}
	slices.SortFunc(out.Tasks, func(a, b *swarmv1.TaskStats) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetTaskId(), b.GetTaskId()))
	})
	return out
}

// usage asks a node what its tasks use, and sets their Usage.
func usage(ctx context.Context, conn grpc.ClientConnInterface, v *table.View, tasks []*swarmv1.TaskStats) (*swarmv1.HostUsage, error) {
	byID := make(map[string]*swarmv1.TaskStats, len(tasks))
	var ids []string
	for _, t := range tasks {
		byID[t.GetTaskId()] = t
		if task, ok := v.Tasks.Get(t.GetTaskId()); ok && !object.Ended(v, task) {
			ids = append(ids, t.GetTaskId())
		}
	}
	answer, err := swarmv1.NewNodeStatsClient(conn).Usage(ctx, &swarmv1.NodeUsageRequest{TaskIds: ids})
	if err != nil {
		return nil, err
	}
	answer = bounds.Usage(answer, ids)
	for _, u := range answer.GetTasks() {
		byID[u.GetTaskId()].Usage = u
	}
	return answer.GetHost(), nil
}

func taskStats(v *table.View, t *swarmv1.Task) *swarmv1.TaskStats {
	return &swarmv1.TaskStats{
		TaskId: t.GetId(), ServiceId: t.GetServiceId(), Name: explain.TaskName(object.ServiceName(v, t.GetServiceId()), t),
		NodeId: t.GetNodeId(), NodeName: object.NodeName(v, t.GetNodeId()), State: v.Status(t.GetId()).GetState(),
	}
}

// GetProcesses implements swarmv1.StatsServer. A reference to a service means its running task
// with the lowest slot.
func (s *Server) GetProcesses(ctx context.Context, req *swarmv1.ProcessesRequest) (*swarmv1.ProcessesResponse, error) {
	v := s.store.View()
	t, err := object.FindRunning(v, req.GetTask())
	if err != nil {
		return nil, err
	}
	if !running(v, t) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s does not run: list those that do with `swarm service ps %s`",
			req.GetTask(), object.ServiceName(v, t.GetServiceId())))
	}
	ctx, cancel := context.WithTimeout(ctx, processesTimeout)
	defer cancel()
	answer, err := s.processes(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("processes of task %s on node %s: %w", t.GetId(), object.NodeName(v, t.GetNodeId()), err)
	}
	return bounds.Processes(answer, t.GetId()), nil
}

func (s *Server) processes(ctx context.Context, t *swarmv1.Task) (*swarmv1.ProcessesResponse, error) {
	conn, err := s.nodes.Conn(t.GetNodeId())
	if err != nil {
		return nil, err
	}
	return swarmv1.NewNodeStatsClient(conn).Processes(ctx, &swarmv1.ProcessesRequest{Task: t.GetId()})
}
