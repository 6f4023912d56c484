// Package converge judges whether a service has converged after a change, or will not converge
// without another change. A converged service has the tasks that its specification asks for, and
// they keep running.
//
// A service has converged when these three things are true. The update that the change began, if
// any, has completed. Every slot has a task of the wanted specification that has run for the
// monitor time of the update policy. The tasks that had to stop have stopped. A job has converged
// when its tasks have completed. Package rollout decides whether a task has failed, whether another
// task follows it, and how far an update is. The planner uses the same functions.
//
// The judge is pure: it reads only its arguments, and the time is one of them. A Judge remembers
// the failed tasks of one service since one change, because their rows are deleted after a while.
// It runs no goroutine. Its caller is the RPC WaitService, and clients display its reports.
package converge
