// Package task is the state machine of a task on its worker. It is one pure table: Step takes the
// observed state of a task, its desired state, and the event that has just happened, and returns
// the next state and the next action.
//
// The package defines the order of the states, and refuses an event that cannot happen in a state.
// It does no I/O, has no clock and runs no goroutine. The loop that the worker runs for each task
// calls Step. The planner and the dispatcher call Terminal.
package task

import (
	"fmt"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// State is the state of a task. The values are those of Docker, and they only increase during the
// life of a task.
type State = swarmv1.TaskState

// Event is an event in the life of a task.
type Event uint8

const (
	// Look means that the loop of the task has started or that the desired state has changed. Step
	// then decides again what to do.
	Look Event = iota
	// Accepted means that the worker has accepted the task.
	Accepted
	// Prepared means that the image, the networks, the files and the container are ready.
	Prepared
	// Started means that the container runs or has run.
	Started
	// Healthy means that the health check has passed, or that there is none.
	Healthy
	// Sick means that the worker must stop the container although it runs: the health check has
	// failed with no retries left, or the lease of a single-writer task is about to end.
	Sick
	// Refused means that the action has failed and would fail again.
	Refused
	// Ended means that the container has ended by itself with code 0.
	Ended
	// Broke means that the container has ended by itself with another code or an unknown one.
	Broke
	// Stopped means that the container has ended because the worker stopped it.
	Stopped
	// Cleaned means that nothing of the task is left on the node except its logs.
	Cleaned
)

// Events returns all events.
func Events() []Event {
	return []Event{Look, Accepted, Prepared, Started, Healthy, Sick, Refused, Ended, Broke, Stopped, Cleaned}
}

func (e Event) String() string {
	names := [...]string{"look", "accepted", "prepared", "started", "healthy", "sick", "refused", "ended", "broke", "stopped", "cleaned"}
	if int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("event %d", e)
}

// Action is the next action of the worker for a task. The comment of each action lists the events
// that can end it. A Look interrupts an action if the desired state changes to a stop.
type Action uint8

const (
	// Rest does nothing until the desired state changes.
	Rest Action = iota
	// Accept accepts the task: Accepted.
	Accept
	// Prepare pulls the image, attaches networks, writes files and creates the container: Prepared,
	// Refused.
	Prepare
	// Start starts the container: Started, Refused.
	Start
	// Probe waits until the container is healthy: Healthy, Sick, Ended, Broke.
	Probe
	// Watch waits for the end of the container and continues the health checks: Sick, Ended, Broke.
	Watch
	// Stop stops the container with its stop signal and grace period: Stopped.
	Stop
	// Clean removes the container, its network and its files: Cleaned.
	Clean
)

func (a Action) String() string {
	names := [...]string{"rest", "accept", "prepare", "start", "probe", "watch", "stop", "clean"}
	if int(a) < len(names) {
		return names[a]
	}
	return fmt.Sprintf("action %d", a)
}

// Terminal reports whether a task in this state will never run again.
func Terminal(s State) bool { return s >= swarmv1.TaskState_COMPLETE }

// Stops reports whether a desired state asks for the end of the task.
func Stops(desired State) bool { return desired >= swarmv1.TaskState_SHUTDOWN }

// goal groups the desired states that need the same actions.
type goal uint8

const (
	ready goal = 1 << iota // READY and below: prepare, but do not start
	run                    // RUNNING, COMPLETE
	stop                   // SHUTDOWN and above

	goOn   = ready | run
	always = ready | run | stop
)

func goalOf(desired State) goal {
	switch {
	case Stops(desired):
		return stop
	case desired >= swarmv1.TaskState_RUNNING:
		return run
	default:
		return ready
	}
}

// rule is one row of the table.
type rule struct {
	in     State
	on     Event
	when   goal
	to     State
	action Action
}

const (
	assigned  = swarmv1.TaskState_ASSIGNED
	accepted  = swarmv1.TaskState_ACCEPTED
	preparing = swarmv1.TaskState_PREPARING
	isReady   = swarmv1.TaskState_READY
	starting  = swarmv1.TaskState_STARTING
	running   = swarmv1.TaskState_RUNNING
	complete  = swarmv1.TaskState_COMPLETE
	shutdown  = swarmv1.TaskState_SHUTDOWN
	failed    = swarmv1.TaskState_FAILED
	rejected  = swarmv1.TaskState_REJECTED
)

// table has a row for every event that can happen. A Look in the state of an action begins the
// action again: actions are idempotent, and a daemon that was killed knows only the state.
var table = [...]rule{
	{assigned, Look, goOn, accepted, Accept},
	{assigned, Look, stop, shutdown, Clean},

	{accepted, Look, goOn, accepted, Accept},
	{accepted, Accepted, goOn, preparing, Prepare},
	{accepted, Look, stop, shutdown, Clean},
	{accepted, Accepted, stop, shutdown, Clean},

	{preparing, Look, goOn, preparing, Prepare},
	{preparing, Prepared, ready, isReady, Rest},
	{preparing, Prepared, run, starting, Start},
	{preparing, Refused, always, rejected, Clean},
	{preparing, Look, stop, shutdown, Clean},
	{preparing, Prepared, stop, shutdown, Clean},

	{isReady, Look, ready, isReady, Rest},
	{isReady, Look, run, starting, Start},
	{isReady, Look, stop, shutdown, Clean},

	{starting, Look, goOn, starting, Start},
	{starting, Started, goOn, starting, Probe},
	{starting, Healthy, goOn, running, Watch},
	{starting, Sick, always, starting, Stop},
	{starting, Refused, goOn, failed, Clean},
	{starting, Ended, goOn, complete, Clean},
	{starting, Broke, goOn, failed, Clean},
	{starting, Stopped, goOn, failed, Clean},
	{starting, Look, stop, starting, Stop},
	{starting, Started, stop, starting, Stop},
	{starting, Healthy, stop, starting, Stop},
	{starting, Refused, stop, shutdown, Clean},
	{starting, Ended, stop, shutdown, Clean},
	{starting, Broke, stop, shutdown, Clean},
	{starting, Stopped, stop, shutdown, Clean},

	{running, Look, goOn, running, Watch},
	{running, Sick, always, running, Stop},
	{running, Ended, goOn, complete, Clean},
	{running, Broke, goOn, failed, Clean},
	{running, Stopped, goOn, failed, Clean},
	{running, Look, stop, running, Stop},
	{running, Ended, stop, shutdown, Clean},
	{running, Broke, stop, shutdown, Clean},
	{running, Stopped, stop, shutdown, Clean},

	{complete, Look, always, complete, Clean},
	{complete, Cleaned, always, complete, Rest},
	{shutdown, Look, always, shutdown, Clean},
	{shutdown, Cleaned, always, shutdown, Rest},
	{failed, Look, always, failed, Clean},
	{failed, Cleaned, always, failed, Rest},
	{rejected, Look, always, rejected, Clean},
	{rejected, Cleaned, always, rejected, Rest},
}

// Step returns the next state and action. It returns errdefs.ErrFailedPrecondition if the event
// cannot happen in the observed state, which is an error of the caller. The state then does not
// change.
func Step(observed, desired State, event Event) (State, Action, error) {
	g := goalOf(desired)
	for i := range table {
		if r := &table[i]; r.in == observed && r.on == event && r.when&g != 0 {
			return r.to, r.action, nil
		}
	}
	return observed, Rest, fmt.Errorf("task that is %s and should be %s cannot be %s: %w", observed, desired, event, errdefs.ErrFailedPrecondition)
}
