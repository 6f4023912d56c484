// Package logs prints the output of tasks, for `service logs` and `task logs`. Package converge
// uses it to show the last lines of a task that failed.
//
// The package turns the records that a manager sends into lines, and puts the origin before each
// line. A line that comes in several records is not mixed with another line. Callers: the packages
// service, task and converge. It starts no goroutines.
package logs
