// Package converge judges whether a service has converged after a change: whether the cluster runs
// what the service asks for and will keep running it, or cannot get there without another change.
//
// A service has converged when the update that the change began, if any, has completed, every slot
// has a task of the wanted specification that has run for the monitor time of the update policy,
// and the tasks that had to stop have stopped. A job has converged when its tasks have completed.
// Whether a task failed, whether another follows it and how far an update is are decided by package
// rollout, for this judge and for the planner.
//
// The judge is pure: it reads what it is shown, and time is an argument. It holds what it has seen
// of one service since one change, because rows of failed tasks are deleted after a while. It runs
// no goroutine. Its caller is the RPC WaitService; clients only display what it says.
package converge
