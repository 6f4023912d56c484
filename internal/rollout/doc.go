// Package rollout holds the rules about a service's tasks that both the planner and a judge of
// convergence need: which update a service is in, whether a task has failed in that update, when a
// running task counts as stable, and whether another task follows a task that has ended.
//
// It reads rows and changes nothing. It is pure: it has no clock, goroutine or store, and time is
// an argument. It does not decide what to do about a failed task or a finished update; that is the
// planner's decision. Its callers are the planner and the judge of convergence. A row may be nil if
// it has not arrived; it then reads as a row without fields.
package rollout
