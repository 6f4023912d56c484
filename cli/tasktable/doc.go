// Package tasktable prints the table of tasks, which `service ps`, `node ps` and `task ls` share.
//
// It owns the table's flags, columns and order: by service and slot, the newest task of a slot
// first, its predecessors below it. Callers: the packages service, node and task. It starts no
// goroutines.
package tasktable
