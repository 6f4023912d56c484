// Package tasks runs the tasks of a node: one loop per task pulls its image, attaches it to its
// networks, starts, probes and watches its container, and stops and removes it.
//
// A Runner owns the tasks and their loops. One pure table, Step of package internal/task, decides
// which action is next; the loops perform the actions and report the outcomes to it. The managers
// decide which tasks a node has and what replaces a task that has ended, not this package.
//
// # When a task ends
//
// The loop reports the end to the managers before it removes the container, so that the replacement
// does not wait for the removal. The managers replace the task, here or on another node. If there
// has been no session with a manager for 10 s, the loop itself starts the container of the same
// task again, as the restart policy says. It never does so with a single-writer task, because
// another node may have taken over. It stops a single-writer task that still runs when three
// quarters of the node's lease have passed without a confirmed heartbeat.
//
// RUNNING means healthy. A task that becomes unhealthy is first reported as RUNNING and not ready,
// so that it leaves the load balancers. Then the loop stops it, and it ends as FAILED.
//
// # When a task is told to stop
//
// If other nodes may send connections to the task, the loop waits until every node has taken the
// task out of its load balancer before it sends the stop signal. It waits for 10 s at most, or for
// 20 s if the host goes down. See drain.go.
//
// # When the daemon restarts
//
// Containers run on without the daemon. Run watches the containers of RUNNING and STARTING tasks
// again, without waiting for a manager. Tasks that had not been started wait for the managers'
// first complete set of assignments, because another node may have their slots by now. After that
// set, or after 10 s without a manager, the loops report the containers that ended while no daemon
// ran. Only after that set does Run remove the containers that belong to no task. See adopt.go.
//
// # When the host goes down
//
// The managers count the node as down before StopAll stops every task, so the replacements start
// elsewhere at the same time. Tasks that are assigned during the departure do not start.
//
// # Callers and goroutines
//
// Package worker calls Run, Assign and StopAll. Package storage asks which containers and images
// are needed, and calls Remove for containers without a task. A task has one goroutine while there
// is something to do, and further ones while it is probed; a task that waits to be started or has
// ended has none. Creating, starting and removing containers take one of Config.Starts permits,
// each in its own goroutine. Run waits for the loops. It does not wait for a call that hangs in the
// kernel after its context has ended: that goroutine ends when the call does.
package tasks
