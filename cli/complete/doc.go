// Package complete gives shells the words that a command line may go on with: names of services,
// nodes, tasks, images and networks, and the fixed values of flags.
//
// It asks the daemon that the command line names, for a second at most, and completes nothing if
// that fails. Callers: the packages of verbs below cli. It starts no goroutines.
package complete
