// Package facts keeps apart what a node reports of itself and what the cluster places tasks by.
//
// Platform, engine labels and generic resources draw tasks to a node, and with the tasks their
// secrets. A program with root on a worker can report any of them. So the values of the node's
// first session are fixed. Values that the node reports later are pending until an operator accepts
// them: they are shown, and nothing is placed by them.
//
// The functions are pure. They do not change their arguments.
package facts
