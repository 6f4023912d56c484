// Package task holds the verbs of `swarm task`: ls, inspect and logs, and `swarm exec`.
//
// Callers: cli. Goroutines: exec sends what is typed in one and reads it in another. The sender
// ends with the verb; the reader may outlive it by one read, because a read of standard input
// cannot be interrupted.
package task
