// Package task holds the verbs of `swarm task`: ls, inspect and logs, and `swarm exec`.
//
// Callers: cli. Goroutines: exec has one that reads the user's input and one that sends the input
// to the task. The sender ends with the verb. The reader may outlive the verb by one read, because
// a read of standard input cannot be interrupted.
package task
