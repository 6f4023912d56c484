package worker

import (
	"context"
	"sync/atomic"
	"time"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/retry"
)

const (
	// drainPatience bounds the wait for every node to know that a task takes no new connections any more. In a healthy cluster
	// some milliseconds are enough; a node that is lost is waited for until it counts as down, by default so long.
	drainPatience = 10 * time.Second
	// drainAfter is for who had chosen this task, or looked its address up, before its node knew.
	drainAfter = 200 * time.Millisecond
	// askAgain is the first pause after a manager could not say; the session may be about to begin with another one.
	askAgain      = 50 * time.Millisecond
	askAgainLimit = time.Second
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
		elsewhere = elsewhere || t.w.objects.Get(swarmv1.AssignmentRef_ROUTING, service) != nil
	}
	for _, p := range t.revision.GetSpec().GetEndpointSpec().GetPorts() {
		served = served || p.GetPublishMode() != swarmv1.PortConfig_HOST
	}
	if ready && served && elsewhere {
		t.replaced(ctx)
		t.w.settled(ctx, t.id)
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

// settler asks a manager once for all who wait at the same time.
type settler struct {
	turn  chan struct{} // capacity 1: taken by who asks. It guards done
	asked atomic.Uint64 // how many have asked so far
	done  uint64        // how many of these have their answer
}

func newSettler() *settler { return &settler{turn: make(chan struct{}, 1)} }

// settled waits until what the managers know now is in force on every node, for drainPatience at most.
func (w *Worker) settled(ctx context.Context, taskID string) {
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	began := time.Now()
	ticket := w.settler.asked.Add(1)
	for try := 0; ; try++ {
		err := w.settler.ask(ctx, ticket, w.askSettled)
		if err == nil {
			w.deps.Log.Debug("no node sends new connections any more", "task", taskID, "took", time.Since(began))
			return
		}
		if retry.IsPermanent(err) || pause.For(ctx, retry.Backoff(try, askAgain, askAgainLimit)) != nil {
			w.deps.Log.Warn("it is not known whether other nodes still send new connections to a task that stops now", "task", taskID, "err", err)
			return
		}
	}
}

// ask has do done, unless somebody has had it done since the ticket was drawn.
func (s *settler) ask(ctx context.Context, ticket uint64, do func(context.Context) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if s.done >= ticket {
		return nil
	}
	asked := s.asked.Load()
	err := do(ctx)
	if err == nil {
		s.done = asked
	}
	return err
}

func (w *Worker) askSettled(ctx context.Context) error {
	conn, err := w.managerConn()
	if err != nil {
		return err
	}
	_, err = swarmv1.NewDispatcherClient(conn).Settled(ctx, &swarmv1.SettledRequest{})
	return err
}
