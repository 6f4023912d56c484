// Package top holds the verb `swarm top`: a terminal UI with the nodes, services and tasks of the
// cluster and what they use, or the processes of one task.
//
// The UI is built with Bubble Tea. model is its state: Update and View are pure functions of the
// state and a message, so tests compare screens. source gets the figures and logs from a manager,
// and turns the loss of the manager into a message.
//
// Only this package imports Bubble Tea. Callers: cli. Goroutines: one that follows
// the figures, and those of Bubble Tea. They end with the verb.
package top
