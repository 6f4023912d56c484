package tasks

import (
	"context"
	"time"

	"swarm/internal/pause"
	"swarm/internal/publish"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// drainTimeout bounds the wait for the managers to want the task's end.
	drainTimeout = 10 * time.Second
	// drainGrace covers clients that resolved the task's address, or chose the task, just before it
	// left their node's load balancer.
	drainGrace = 200 * time.Millisecond
)

// drain waits until the other nodes send new connections to other tasks, before this one is told to
// stop. So clients that use the service's address or name lose no request when a service is updated
// or scaled down. It returns at once if the task is not ready, if no clients come from other nodes,
// and if the whole service is removed.
func (t *taskLoop) drain(ctx context.Context) {
	t.mu.Lock()
	ready, served := t.status.GetReady(), len(t.attached.Nameservers) > 0
	desired, elsewhere := t.task.GetDesiredState(), t.departing
	service := t.task.GetServiceId()
	t.mu.Unlock()
	switch desired {
	case swarmv1.TaskState_SHUTDOWN:
		elsewhere = true
	case swarmv1.TaskState_REMOVE: // A service that is removed has no other task to send them to.
		elsewhere = elsewhere || t.r.deps.Objects.Get(swarmv1.AssignmentRef_ROUTING, service) != nil
	}
	for _, p := range t.revision.GetSpec().GetEndpointSpec().GetPorts() {
		served = served || publish.ByMesh(p)
	}
	if ready && served && elsewhere {
		t.awaitStop(ctx)
		t.r.deps.Managers.AwaitProgrammed(ctx, t.id)
		_ = pause.For(ctx, drainGrace)
	}
}

// awaitStop waits until the managers want the task's end, for drainTimeout at most. They do not yet
// if the loop stops the task because the host goes down.
func (t *taskLoop) awaitStop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		t.mu.Lock()
		ends, heard := t.unassigned || task.Stops(t.task.GetDesiredState()), t.changed.Changed()
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
