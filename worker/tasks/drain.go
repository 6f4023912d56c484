package tasks

import (
	"context"
	"slices"
	"time"

	"swarm/internal/pause"
	"swarm/internal/publish"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// drainTimeout bounds the wait of awaitDesiredStop. After that wait, AwaitProgrammed waits for
	// another 10 s at most.
	drainTimeout = 10 * time.Second
	// drainGrace covers clients that resolved the task's address, or chose the task, just before it
	// left their node's load balancer.
	drainGrace = 200 * time.Millisecond
)

// drain waits until the other nodes send new connections to other tasks of the service. The caller
// then stops this task. So clients that use the service's address or name lose no request when a
// service is updated or scaled down. drain does not wait in any of three cases: the task is not
// ready, other nodes cannot send connections to it, or the row of the service is gone.
func (t *taskLoop) drain(ctx context.Context) {
	t.mu.Lock()
	ready := t.status.GetReady()
	t.mu.Unlock()
	if !ready || !t.isRemotelyUsed() || !t.serviceRemains() {
		return
	}
	t.awaitDesiredStop(ctx)
	t.r.deps.Managers.AwaitProgrammed(ctx, t.id)
	_ = pause.For(ctx, drainGrace)
}

// isRemotelyUsed reports whether other nodes send connections to the task: over an overlay network,
// or from a port that the routing mesh publishes.
func (t *taskLoop) isRemotelyUsed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attached.OnOverlay() || slices.ContainsFunc(t.revision.GetSpec().GetEndpointSpec().GetPorts(), publish.ByMesh)
}

// serviceRemains reports whether nodes still send connections to the service. Its other tasks, if
// there are any, then take the connections of this one.
func (t *taskLoop) serviceRemains() bool {
	t.mu.Lock()
	desired, departing, service := t.task.GetDesiredState(), t.departing, t.task.GetServiceId()
	t.mu.Unlock()
	switch {
	case departing, desired == swarmv1.TaskState_SHUTDOWN: // The task is replaced, and the service remains.
		return true
	// The slot or the service is removed. The row of a removed service exists until its tasks have
	// stopped, so these tasks are drained too.
	case desired == swarmv1.TaskState_REMOVE: // There is a Routing while the service's row exists.
		return t.r.deps.Objects.Get(swarmv1.AssignmentRef_ROUTING, service) != nil
	}
	return false
}

// awaitDesiredStop waits until the managers have told the task to stop or do not assign it any
// more, for drainTimeout at most. It has to wait only when the host goes down: then the loop stops
// the task before the managers do.
func (t *taskLoop) awaitDesiredStop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		t.mu.Lock()
		told, changed := t.unassigned || task.Stops(t.task.GetDesiredState()), t.changed.Changed()
		t.mu.Unlock()
		if told {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
