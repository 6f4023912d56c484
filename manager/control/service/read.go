package service

import (
	"context"

	"swarm/internal/task"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// GetService returns a service with its current revision, its endpoint, and counts of its tasks.
func (s *Server) GetService(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ServiceInfo, error) {
	v := s.store.View()
	svc, err := object.Services().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	return serviceInfo(v, svc), nil
}

// ListServices returns the services that the filter matches, ordered by name.
func (s *Server) ListServices(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListServicesResponse, error) {
	v, out := s.store.View(), &swarmv1.ListServicesResponse{}
	for _, svc := range object.Services().List(v, req.GetFilter()) {
		out.Services = append(out.Services, serviceInfo(v, svc))
	}
	return out, nil
}

// ListRevisions returns the revisions of a service that the cluster still has, the oldest first.
func (s *Server) ListRevisions(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.ListRevisionsResponse, error) {
	v := s.store.View()
	svc, err := object.Services().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	out := &swarmv1.ListRevisionsResponse{}
	for rev := range v.RevisionsOf(svc.GetId()) {
		out.Revisions = append(out.Revisions, object.ShownRevision(rev))
	}
	return out, nil
}

func serviceInfo(v *table.View, svc *swarmv1.Service) *swarmv1.ServiceInfo {
	rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
	end, _ := v.Endpoints.Get(svc.GetId())
	return &swarmv1.ServiceInfo{Service: svc, Revision: object.ShownRevision(rev), Endpoint: end, Status: serviceStatus(v, svc, rev.GetSpec())}
}

// serviceStatus counts the tasks of a service as Docker does. The number of desired tasks is that
// of the tasks that exist and shall run for a global service and a global job, and the number that
// may run at a time for a replicated job.
func serviceStatus(v *table.View, svc *swarmv1.Service, sp *swarmv1.ServiceSpec) *swarmv1.ServiceStatus {
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
		st.DesiredTasks = min(mode.ReplicatedJob.GetMaxConcurrent(), mode.ReplicatedJob.GetTotalCompletions())
	default:
		st.DesiredTasks = wanted
	}
	if svc.GetPendingDelete() {
		st.DesiredTasks = 0
	}
	return st
}
