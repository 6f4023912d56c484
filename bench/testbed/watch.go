package testbed

import (
	"context"

	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
)

// Watcher follows the states of all tasks that change after Watch.
type Watcher struct {
	stream grpc.ServerStreamingClient[swarmv1.Event]
	states map[string]swarmv1.TaskState
}

// Watch begins to follow the tasks. It returns once the watch is in place, so that the caller may
// change something next.
func Watch(ctx context.Context, control swarmv1.ControlClient) (*Watcher, error) {
	stream, err := control.Watch(ctx, &swarmv1.WatchRequest{Filters: []string{"type=task"}, Objects: true})
	if err != nil {
		return nil, err
	}
	if _, err := stream.Header(); err != nil { // the header arrives once the watch is in place
		return nil, err
	}
	return &Watcher{stream: stream, states: map[string]swarmv1.TaskState{}}, nil
}

// Next waits for the next event of a task or a task's status, and returns it.
func (w *Watcher) Next() (*swarmv1.Event, error) {
	event, err := w.stream.Recv()
	if err != nil {
		return nil, err
	}
	switch object := event.Object.GetObject().(type) {
	case *swarmv1.Object_TaskStatus:
		if event.Action != swarmv1.Event_REMOVE {
			w.states[object.TaskStatus.TaskId] = object.TaskStatus.State
		}
	case *swarmv1.Object_Task:
		if event.Action == swarmv1.Event_REMOVE {
			delete(w.states, object.Task.Id)
		}
	}
	return event, nil
}

// Until reads events until done accepts the states of all tasks that exist, by task ID.
func (w *Watcher) Until(done func(map[string]swarmv1.TaskState) bool) error {
	for {
		if _, err := w.Next(); err != nil {
			return err
		}
		if done(w.states) {
			return nil
		}
	}
}

// Reset forgets the states that were seen so far.
func (w *Watcher) Reset() { clear(w.states) }

// Running returns a condition for Until: exactly n tasks run.
func Running(n int) func(map[string]swarmv1.TaskState) bool {
	return func(states map[string]swarmv1.TaskState) bool {
		count := 0
		for _, s := range states {
			if s == swarmv1.TaskState_RUNNING {
				count++
			}
		}
		return count == n
	}
}

// None is a condition for Until: no task is left.
func None(states map[string]swarmv1.TaskState) bool { return len(states) == 0 }
