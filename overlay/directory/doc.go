// Package directory stores what a node knows of the cluster's networks: which tasks are on each
// network, to which service each task belongs, and which addresses the other nodes have.
//
// Apply takes the assignments that the managers send. SetDead takes the nodes that gossip and the
// failure detector report as dead. The other methods return values that package plane can program.
// A service gets no backends on dead nodes, unless all its ready tasks are on dead nodes. So
// connections avoid a dead node even while no manager answers. SetDead may ignore a report, because
// the fault may be on this node. The directory records what has changed since the last call of
// Take. It does not touch the kernel, the disk or a clock, and runs
// no goroutine. Its callers are overlay/plane, and adapter/dataplane, which calls Apply.
package directory
