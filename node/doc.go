// Package node manages the membership of one host in a cluster: the host is inactive, a member, and
// inactive again after it leaves. The package stores the membership on disk (Membership, the
// credential), creates a cluster (Init), joins one (Join), leaves it (Leave), renews the
// certificate, and starts and stops the manager when the node's role changes. It serves the Daemon
// service on the local socket.
//
// It does not know Raft, gossip, containers or the planner: cmd/swarm passes functions in Deps that
// construct these parts. It allows one Init, Join or Leave at a time. It refuses to leave a cluster
// if this node has the last copy of the cluster's state, unless forced.
//
// Goroutines, all within Run: the local server, and while the host is a member: the listener, its
// gRPC servers, gossip, the worker, the manager if the role is manager, the renewal of the
// certificate, and the check of open connections.
package node
