// Package complete offers shells the words that may come next on a command line: names of services,
// nodes, tasks, images and networks, and the fixed values of flags.
//
// The package asks the daemon that the command line names. If the daemon does not answer within a
// second, nothing is offered. Callers: the packages of verbs below cli. It starts no goroutines.
package complete
