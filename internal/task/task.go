// Package task is the life of a task on its worker as one pure table: Step says, for the state that a task is in, the
// state that is desired of it and what has just happened, which state it is in now and what to do next.
//
// It owns the order of the states and refuses events that cannot happen in a state. It does no I/O, knows no time and
// runs no goroutine. Its caller is the loop that worker runs for each task; the planner and the dispatcher ask
// Terminal.
package task

import (
	"fmt"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// State is a task's state; the values are Docker's, and grow.
type State = swarmv1.TaskState

// Event is what has happened to a task.
type Event uint8

const (
	// Look: nothing but that the desired state changed or the loop began; decide anew what to do.
	Look Event = iota
	// Accepted: the worker took the task over.
	Accepted
	// Prepared: image, network, files and container are ready.
	Prepared
	// Started: the container runs, or ran.
	Started
	// Healthy: the health check passed, or there is none.
	Healthy
	// Sick: the health check failed for good.
	Sick
	// Refused: the action cannot succeed, now or later.
	Refused
	// Ended: the container ended by itself with code 0.
	Ended
	// Broke: the container ended by itself with another or an unknown code.
	Broke
	// Stopped: the container ended because it was told to.
	Stopped
	// Cleaned: nothing of the task is left on the node but its logs.
	Cleaned
)

// Events lists all of them.
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

// Action is what the worker does next for a task. It ends with one of the events named here, or is interrupted when a
// stop becomes desired, which is a Look.
type Action uint8

const (
	// Rest: nothing to do until the desired state changes.
	Rest Action = iota
	// Accept the task: Accepted.
	Accept
	// Prepare pulls the image, attaches networks, writes files and creates the container: Prepared, Refused.
	Prepare
	// Start starts the container: Started, Refused.
	Start
	// Probe waits until the container is healthy: Healthy, Sick, Ended, Broke.
	Probe
	// Watch waits for the container's end, and probes on: Sick, Ended, Broke.
	Watch
	// Stop stops the container, with its signal and grace: Stopped.
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

// Terminal says whether a task in this state will never run again.
func Terminal(s State) bool { return s >= swarmv1.TaskState_COMPLETE }

// Stops says whether a desired state asks for the end of the task.
func Stops(desired State) bool { return desired >= swarmv1.TaskState_SHUTDOWN }

// want is what the desired states come down to.
type want uint8

const (
	ready want = 1 << iota // READY or less: prepare, and do not start
	run                    // RUNNING, COMPLETE
	stop                   // SHUTDOWN and above

	goOn   = ready | run
	always = ready | run | stop
)

func wanted(desired State) want {
	switch {
	case Stops(desired):
		return stop
	case desired >= swarmv1.TaskState_RUNNING:
		return run
	default:
		return ready
	}
}

// rule is one line of the table.
type rule struct {
	in     State
	on     Event
	when   want
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

// The table. A Look in the middle of an action's state begins the action again: actions are idempotent, and a daemon
// that was killed knows no more than the state. What is not here cannot happen.
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

// Step looks the next state and action up. An error (ErrFailedPrecondition) means that the event cannot happen in that
// state: the caller is at fault, and the task stays where it is.
func Step(observed, desired State, event Event) (State, Action, error) {
	w := wanted(desired)
	for i := range table {
		if r := &table[i]; r.in == observed && r.on == event && r.when&w != 0 {
			return r.to, r.action, nil
		}
	}
	return observed, Rest, fmt.Errorf("task that is %s and should be %s cannot be %s: %w", observed, desired, event, errdefs.ErrFailedPrecondition)
}
