// Package directory is what a node knows of the cluster's networks: which tasks are on them, which
// services they belong to, and at which addresses the other nodes are.
//
// Apply takes the managers' assignments, and SetDead the nodes that gossip counts as dead. The
// other methods return values that package plane can program. A service gets no backends on dead
// nodes, so connections avoid a dead node even while no manager answers; dead.go says when a report
// of dead nodes is ignored. The directory remembers what has changed since the last call of Take.
// It does not touch the kernel, the disk or a clock, and runs no goroutine. Its caller is package
// plane.
package directory
