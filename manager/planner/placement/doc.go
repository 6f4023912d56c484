// Package placement chooses the node for a task, and explains to the user why no node takes one.
//
// A Finder collects, once for each revision that it places, the nodes that match the constraints
// and platforms of the revision. It orders them by tasks of the service, then by all tasks, spreads
// over the branches of the spread preferences, and checks room only when a node is the next
// candidate. The same filters decide the choice and the explanation.
//
// It reads a cluster.State and changes nothing: its caller, the planner, reserves what a task needs
// with a cluster.Draft before it asks for the next node. It has no clock and no goroutine, and the
// same rows, time and earlier placements give the same node.
package placement
