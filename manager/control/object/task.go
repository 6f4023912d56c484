package object

import (
	"iter"
	"strings"

	"swarm/internal/explain"
	"swarm/internal/task"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// Tasks describes tasks. The tasks of a slot all have the slot's name. As a reference, the name
// means the current task of the slot.
func Tasks() crud.Kind[*swarmv1.Task] {
	return crud.Kind[*swarmv1.Task]{
		Word: "task", ListCommand: "swarm task ls",
		Table:   func(v *table.View) table.Rows[*swarmv1.Task] { return v.Tasks },
		TableID: table.Task,
		Name: func(v *table.View, t *swarmv1.Task) string {
			return explain.TaskName(ServiceName(v, t.GetServiceId()), t)
		},
		ByName: func(v *table.View, name string) iter.Seq[*swarmv1.Task] {
			t := currentTask(TasksNamed(v, name))
			return crud.One(t, t != nil)
		},
		Attributes: func(v *table.View, t *swarmv1.Task) map[string]string {
			a := taskAttributes(v, t)
			a["desired"] = strings.ToLower(t.GetDesiredState().String())
			return a
		},
		Changed: func(old, t *swarmv1.Task) map[string]string {
			return crud.Difference("desired", old.GetDesiredState(), t.GetDesiredState())
		},
		Subject: func(v *table.View, t *swarmv1.Task) crud.Subject {
			return TaskSubject(v, t, ServiceName(v, t.GetServiceId()))
		},
	}
}

// taskAttributes returns what all events of a task say about it.
func taskAttributes(v *table.View, t *swarmv1.Task) map[string]string {
	rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
	return map[string]string{
		"service": t.GetServiceId(), "node": t.GetNodeId(), "name": explain.TaskName(ServiceName(v, t.GetServiceId()), t),
		"image": rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(),
	}
}

// TaskSubject returns what filters see of a task of a service with this name.
func TaskSubject(v *table.View, t *swarmv1.Task, service string) crud.Subject {
	rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
	return crud.Subject{
		ID: t.GetId(), Names: []string{explain.TaskName(service, t)},
		Labels:   []map[string]string{rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetLabels()},
		Services: []string{t.GetServiceId()}, Nodes: []string{t.GetNodeId()},
		Desired: t.GetDesiredState(), IsTask: true, JobIteration: t.GetJobIteration(),
	}
}

// Ended reports whether a task has reached its last state.
func Ended(v *table.View, t *swarmv1.Task) bool {
	return task.Terminal(v.Status(t.GetId()).GetState())
}

// TasksNamed yields the tasks, running and ended, that lists show with a name: "web.1", or
// "web.NODE" if the service is global.
func TasksNamed(v *table.View, name string) iter.Seq[*swarmv1.Task] {
	return func(yield func(*swarmv1.Task) bool) {
		i := strings.LastIndexByte(name, '.')
		if i <= 0 {
			return
		}
		svc, ok := v.Services.ByName(name[:i])
		if !ok {
			return
		}
		for t := range v.TasksOfService(svc.GetId()) {
			if strings.EqualFold(explain.TaskName(svc.GetName(), t), name) && !yield(t) {
				return
			}
		}
	}
}

// currentTask returns the task of a slot that shall run. If none or several shall run, it returns
// the one that was created last. It returns nil if there are no tasks.
func currentTask(tasks iter.Seq[*swarmv1.Task]) *swarmv1.Task {
	var best *swarmv1.Task
	for t := range tasks {
		if best == nil || replaces(t, best) {
			best = t
		}
	}
	return best
}

// replaces reports whether a is the current task of a slot rather than b.
func replaces(a, b *swarmv1.Task) bool {
	aRuns, bRuns := a.GetDesiredState() <= swarmv1.TaskState_RUNNING, b.GetDesiredState() <= swarmv1.TaskState_RUNNING
	if aRuns != bRuns {
		return aRuns
	}
	return a.GetMeta().GetCreatedAt().AsTime().After(b.GetMeta().GetCreatedAt().AsTime())
}

// TaskInfo returns a task with its status and the names that users know. If the service of the task
// does not exist any more, its name comes from the task's revision.
func TaskInfo(v *table.View, t *swarmv1.Task) *swarmv1.TaskInfo {
	rev, _ := v.Revision(t.GetServiceId(), t.GetRevision())
	name := rev.GetSpec().GetName()
	if svc, ok := v.Services.Get(t.GetServiceId()); ok {
		name = svc.GetName()
	}
	return &swarmv1.TaskInfo{
		Task: t, Status: v.Status(t.GetId()), ServiceName: name, NodeName: NodeName(v, t.GetNodeId()),
		Image: rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage(),
	}
}
