// Package rollout holds the rules about a service's tasks that two packages share: the planner, and
// manager/converge, which finds out whether a service has reached its desired state. The rules say
// which update a service is in, whether a task has failed in that update, when a running task
// counts as stable, and whether a new task replaces a task that has ended.
//
// The package reads rows and changes nothing. It is pure: it has no clock, goroutine or store, and
// time is an argument. It does not decide what to do about a failed task or a finished update: the
// planner decides that. A row that the caller does not have is nil, and counts as a row without
// fields.
package rollout
