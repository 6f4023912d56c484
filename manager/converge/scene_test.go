package converge

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// scene is what a judge looks at. Its methods return changed copies.
type scene struct {
	service *swarmv1.ServiceInfo
	tasks   []*swarmv1.TaskInfo
}

// replicated is a service with n replicas, which restarts its tasks always and monitors them for 5
// s.
func replicated(n uint64) scene {
	return scene{service: &swarmv1.ServiceInfo{
		Service: &swarmv1.Service{Id: "s", Name: "web", Revision: 1},
		Revision: &swarmv1.Revision{Number: 1, Template: 1, Spec: &swarmv1.ServiceSpec{
			Name:           "web",
			Mode:           &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: n}}},
			TaskTemplate:   &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "app:1"}},
			UpdateConfig:   &swarmv1.UpdateConfig{Monitor: durationpb.New(5 * time.Second)},
			RollbackConfig: &swarmv1.UpdateConfig{Monitor: durationpb.New(5 * time.Second)},
		}},
		Status: &swarmv1.ServiceStatus{DesiredTasks: n},
	}}
}

// edit changes the spec.
func (s scene) edit(change func(*swarmv1.ServiceSpec)) scene {
	s.service = s.service.CloneVT()
	change(s.service.Revision.Spec)
	return s
}

func (s scene) restart(p *swarmv1.RestartPolicy) scene {
	return s.edit(func(sp *swarmv1.ServiceSpec) { sp.TaskTemplate.RestartPolicy = p })
}

func (s scene) update(st swarmv1.UpdateStatus_State, msg string) scene {
	s.service = s.service.CloneVT()
	s.service.Service.UpdateStatus = &swarmv1.UpdateStatus{State: st, Message: msg}
	return s
}

// revise makes a new revision with another template.
func (s scene) revise() scene {
	s.service = s.service.CloneVT()
	s.service.Service.Revision++
	s.service.Revision.Number++
	s.service.Revision.Template = s.service.Revision.Number
	return s
}

func (s scene) with(tasks ...*swarmv1.TaskInfo) scene {
	s.tasks = append(slices.Clone(s.tasks), tasks...)
	return s
}

// replicatedJob is a job of n completions. globalJob is a job on as many nodes as the status
// counts.
func replicatedJob(n uint64) scene {
	return job(&swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{TotalCompletions: n}}})
}

func globalJob() scene {
	return job(&swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_GlobalJob{GlobalJob: &swarmv1.GlobalJob{}}})
}

func job(m *swarmv1.ServiceMode) scene {
	return replicated(0).restart(&swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_NONE}).edit(func(sp *swarmv1.ServiceSpec) { sp.Mode = m })
}

var born int

// tsk makes a task on host1 that is newer than all before it.
func tsk(slot, revision uint64, state swarmv1.TaskState) *swarmv1.TaskInfo {
	born++
	desired := running
	if state > running {
		desired = shutdown
	}
	return &swarmv1.TaskInfo{
		Task: &swarmv1.Task{
			Id: fmt.Sprintf("task%08d-and-more", born), ServiceId: "s", Slot: slot, Revision: revision, DesiredState: desired, NodeId: "n", Ordinal: uint64(born),
			Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(start.Add(time.Duration(born) * time.Second))},
		},
		Status: &swarmv1.TaskStatus{
			State: state, AppliedRevision: revision, ContainerStatus: &swarmv1.ContainerStatus{ExitCode: 3},
			Meta: &swarmv1.Meta{Version: uint64(firstVersion + born), UpdatedAt: timestamppb.New(start)},
		},
		ServiceName: "web", NodeName: "host1", Image: "docker.io/library/app:1",
	}
}

// before moves the status of a task to version 1, an hour before the first look.
func before(t *swarmv1.TaskInfo) *swarmv1.TaskInfo {
	t.Status.Meta = &swarmv1.Meta{Version: 1, UpdatedAt: timestamppb.New(start.Add(-time.Hour))}
	return t
}

// last makes a task the last one that its restart policy allows.
func last(t *swarmv1.TaskInfo) *swarmv1.TaskInfo {
	t.Task.Restarts = &swarmv1.RestartHistory{Attempts: 1}
	return t
}

func unplaced(slot uint64, filter string) *swarmv1.TaskInfo {
	t := tsk(slot, 1, pending)
	t.Task.NodeId, t.NodeName = "", ""
	t.Status.Unplaced = &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: filter, Nodes: 3, Reason: "it does not fit"}}, Nearest: "host2 lacks 1 GiB"}
	return t
}
