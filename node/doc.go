// Package node manages the membership of one host in a cluster: the host is inactive, a member, and
// inactive again after it leaves. The package stores the membership on disk (Membership and the
// credential). It creates a cluster (Init), joins one (Join) and leaves it (Leave). It renews the
// certificate, and starts and stops the manager when the node's role changes. It serves the Daemon
// service on the local socket.
//
// The package does not know Raft, gossip, containers or the planner: cmd/swarm passes functions in
// Deps that construct these parts. Only one Init, Join or Leave runs at a time. Leave returns an
// error on a manager, unless the request forces it.
//
// Goroutines, all within Run: the local server, and while the host is a member: the listener, its
// gRPC servers, gossip, the worker, the manager if the role is manager, the renewal of the
// certificate, and the check of open connections.
package node
