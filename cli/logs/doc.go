// Package logs prints what tasks have written, for `service logs`, `task logs`, and for waiting,
// which shows the last lines of a task that failed.
//
// It turns the records that a manager sends into lines, with where they come from in front. It
// refuses to mix two lines. Callers: the packages service and task. It starts no goroutines.
package logs
