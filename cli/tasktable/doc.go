// Package tasktable prints the table of tasks, which `service ps`, `node ps` and `task ls` share.
//
// The package owns the table's flags, columns and order. Tasks are sorted by service and slot; the
// newest task of a slot comes first, and its predecessors follow. Callers: the packages service,
// node and task. It starts no goroutines.
package tasktable
