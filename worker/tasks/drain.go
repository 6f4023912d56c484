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
	// desiredStopTimeout bounds the wait of awaitDesiredStop.
	desiredStopTimeout = 10 * time.Second
	// drainGrace covers clients that resolved the task's address, or chose the task, just before it
	// left their node's load balancer.
	drainGrace = 200 * time.Millisecond
)

// drain waits until no other node sends new connections to the task. The caller then stops the
// task. So clients that use the service's address or name lose no request when a service is updated
// or scaled down. drain waits at most as long as awaitDesiredStop and AwaitProgrammed together. It
// does not wait if the task is not ready, or if no other node can send connections to it.
func (t *taskLoop) drain(ctx context.Context) {
	t.mu.Lock()
	ready := t.status.GetReady()
	t.mu.Unlock()
	if !ready || !t.isRemotelyUsed() || !t.mayBeBackend() {
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

// mayBeBackend reports whether other nodes may have the task in their load balancers.
func (t *taskLoop) mayBeBackend() bool {
	t.mu.Lock()
	desired, departing, service := t.task.GetDesiredState(), t.departing, t.task.GetServiceId()
	t.mu.Unlock()
	switch {
	case departing, desired == swarmv1.TaskState_SHUTDOWN:
		return true
	case desired == swarmv1.TaskState_REMOVE:
		// The slot or the service is removed. There is a Routing while the service's row exists,
		// and the row of a removed service exists until its tasks have stopped. So they are drained
		// too.
		return t.r.deps.Objects.Get(swarmv1.AssignmentRef_ROUTING, service) != nil
	}
	return false // The managers have deleted the row of the task while this node was lost.
}

// awaitDesiredStop waits until the managers have told the task to stop or do not assign it any
// more, for desiredStopTimeout at most. It has to wait only when the host goes down: then the loop
// stops the task before the managers do.
func (t *taskLoop) awaitDesiredStop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, desiredStopTimeout)
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
