package tasks

import (
	"context"
	"time"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// drainPatience bounds the wait for every node to know that a task takes no new connections any more. In a healthy cluster
	// some milliseconds are enough; a node that is lost is waited for until it counts as down, by default so long.
	drainPatience = 10 * time.Second
	// drainAfter is for who had chosen this task, or looked its address up, before its node knew.
	drainAfter = 200 * time.Millisecond
)

// drain waits until the other nodes send new connections elsewhere before the task is told to stop: neither an update nor a
// service made smaller loses a request of clients that use the service's address or name.
func (t *taskLoop) drain(ctx context.Context) {
	t.mu.Lock()
	ready, served := t.status.GetReady(), len(t.attached.Nameservers) > 0
	desired, elsewhere := t.task.GetDesiredState(), t.departs
	service := t.task.GetServiceId()
	t.mu.Unlock()
	switch desired {
	case swarmv1.TaskState_SHUTDOWN:
		elsewhere = true
	case swarmv1.TaskState_REMOVE: // A service that is removed has nowhere else to send them.
		elsewhere = elsewhere || t.r.deps.Objects.Get(swarmv1.AssignmentRef_ROUTING, service) != nil
	}
	for _, p := range t.revision.GetSpec().GetEndpointSpec().GetPorts() {
		served = served || p.GetPublishMode() != swarmv1.PortConfig_HOST
	}
	if ready && served && elsewhere {
		t.replaced(ctx)
		t.r.deps.Managers.AwaitProgrammed(ctx, t.id)
		_ = pause.For(ctx, drainAfter)
	}
}

// replaced waits, for drainPatience at most, until the managers want the task's end: a host that goes down ends it itself.
func (t *taskLoop) replaced(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	for {
		t.mu.Lock()
		ends, heard := t.gone || task.Stops(t.task.GetDesiredState()), t.heard
		t.mu.Unlock()
		if ends {
			return
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return
		}
	}
}
