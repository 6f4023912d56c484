// Package node holds the verbs of `swarm node`: ls, ps, inspect, update, drain, promote, demote and
// rm.
//
// The verbs edit the specification of nodes, and managers act on the edit. promote and drain wait
// until the managers have done so. Callers: cli. It starts no goroutines.
package node
