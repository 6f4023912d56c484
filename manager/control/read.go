package control

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// GetService looks a service up.
func (s *Server) GetService(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ServiceInfo, error) {
	v := s.store.View()
	svc, err := findService(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return serviceInfo(v, svc), nil
}

// ListServices lists services by name.
func (s *Server) ListServices(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListServicesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListServicesResponse{}
	for svc := range v.Services.All() {
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		if matches(req.GetFilter(), subject{
			id: svc.GetId(), names: []string{svc.GetName()}, labels: []map[string]string{rev.GetSpec().GetLabels()},
			services: []string{svc.GetId()}, mode: modeName(rev.GetSpec()),
		}) {
			out.Services = append(out.Services, serviceInfo(v, svc))
		}
	}
	slices.SortStableFunc(out.Services, func(a, b *swarmv1.ServiceInfo) int {
		return cmp.Compare(a.GetService().GetName(), b.GetService().GetName())
	})
	return out, nil
}

// ListRevisions lists the revisions of a service, oldest first.
func (s *Server) ListRevisions(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ListRevisionsResponse, error) {
	v := s.store.View()
	svc, err := findService(v, req.GetId())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListRevisionsResponse{}
	for rev := range v.Revisions.Prefix(svc.GetId() + "/") {
		out.Revisions = append(out.Revisions, shownRevision(rev))
	}
	return out, nil
}

func serviceInfo(v *raftstore.View, svc *swarmv1.Service) *swarmv1.ServiceInfo {
	rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
	end, _ := v.Endpoints.Get(svc.GetId())
	return &swarmv1.ServiceInfo{Service: svc, Revision: shownRevision(rev), Endpoint: end, Status: serviceStatus(v, svc, rev.GetSpec())}
}

// serviceStatus counts as Docker does: of global services, the nodes that should run one are the tasks that exist.
func serviceStatus(v *raftstore.View, svc *swarmv1.Service, sp *swarmv1.ServiceSpec) *swarmv1.ServiceStatus {
	st := &swarmv1.ServiceStatus{}
	var wanted uint64
	for t := range v.TasksOfService(svc.GetId()) {
		state := v.Status(t.GetId()).GetState()
		current := t.GetDesiredState() <= swarmv1.TaskState_RUNNING
		if current && !task.Terminal(state) {
			wanted++
		}
		if current && state == swarmv1.TaskState_RUNNING {
			st.RunningTasks++
		}
		if state == swarmv1.TaskState_COMPLETE && t.GetJobIteration() == svc.GetJobStatus().GetJobIteration() {
			st.CompletedTasks++
		}
	}
	switch mode := sp.GetMode().GetMode().(type) {
	case *swarmv1.ServiceMode_Replicated:
		st.DesiredTasks = mode.Replicated.GetReplicas()
	case *swarmv1.ServiceMode_ReplicatedJob:
		st.DesiredTasks = mode.ReplicatedJob.GetTotalCompletions()
	case *swarmv1.ServiceMode_GlobalJob:
		st.DesiredTasks = wanted + st.CompletedTasks
	default:
		st.DesiredTasks = wanted
	}
	if svc.GetPendingDelete() {
		st.DesiredTasks = 0
	}
	return st
}

// GetTask looks a task up.
func (s *Server) GetTask(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.TaskInfo, error) {
	v := s.store.View()
	t, err := findTask(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return taskInfo(v, t), nil
}

// ListTasks lists tasks by service and slot, the newest of a slot first.
func (s *Server) ListTasks(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListTasksResponse, error) {
	v := s.store.View()
	filter, err := resolveFilter(v, req.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListTasksResponse{}
	for t := range candidates(v, filter) {
		info := taskInfo(v, t)
		if matches(filter, taskSubject(v, info)) {
			out.Tasks = append(out.Tasks, info)
		}
	}
	slices.SortStableFunc(out.Tasks, compareTasks)
	return out, nil
}

// candidates narrows the scan by what has an index.
func candidates(v *raftstore.View, f *swarmv1.Filter) iter.Seq[*swarmv1.Task] {
	switch {
	case len(f.GetServiceIds()) == 1:
		return v.TasksOfService(f.GetServiceIds()[0])
	case len(f.GetNodeIds()) == 1:
		return v.TasksOnNode(f.GetNodeIds()[0])
	}
	return v.Tasks.All()
}

// resolveFilter lets users name services and nodes in filters by name.
func resolveFilter(v *raftstore.View, f *swarmv1.Filter) (*swarmv1.Filter, error) {
	if len(f.GetServiceIds()) == 0 && len(f.GetNodeIds()) == 0 {
		return f, nil
	}
	f = f.CloneVT()
	for i, ref := range f.GetServiceIds() {
		svc, err := findService(v, ref)
		if err != nil {
			return nil, err
		}
		f.ServiceIds[i] = svc.GetId()
	}
	for i, ref := range f.GetNodeIds() {
		node, err := findNode(v, ref)
		if err != nil {
			return nil, err
		}
		f.NodeIds[i] = node.GetId()
	}
	return f, nil
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

func taskInfo(v *raftstore.View, t *swarmv1.Task) *swarmv1.TaskInfo {
	rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
	name := rev.GetSpec().GetName()
	if svc, ok := v.Services.Get(t.GetServiceId()); ok {
		name = svc.GetName()
	}
	return &swarmv1.TaskInfo{
		Task: t, Status: v.Status(t.GetId()), ServiceName: name, NodeName: nodeName(v, t.GetNodeId()),
		Image: rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(),
	}
}

// nodeName is what users call a node: its name, else its hostname.
func nodeName(v *raftstore.View, id string) string {
	n, ok := v.Nodes.Get(id)
	if !ok {
		return ""
	}
	if n.GetSpec().GetName() != "" {
		return n.GetSpec().GetName()
	}
	return n.GetHostname()
}

// shownRevision is a revision without the credentials that it may carry for the nodes.
func shownRevision(r *swarmv1.Revision) *swarmv1.Revision {
	if r.GetSpec().GetTaskTemplate().GetContainerSpec().GetPullOptions().GetRegistryAuth() == "" {
		return r
	}
	r = r.CloneVT()
	r.Spec.TaskTemplate.ContainerSpec.PullOptions = nil
	return r
}
