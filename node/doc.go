// Package node owns the life of one host in a cluster: inactive, a member, inactive again. It keeps what the host
// remembers of its cluster (Membership, the credential), makes a cluster (Init), enters one (Join), leaves it (Leave),
// renews the certificate, and starts and stops the manager as the node's role changes. It serves the Daemon service on the
// local socket.
//
// It knows no Raft, gossip, container or planner: the parts are made by the functions in Deps, which cmd plugs in. It
// refuses two operations at a time, and to forget a cluster while the last copy of its state is here, unless forced.
//
// Goroutines, all within Run: the local server, and while a member: the listener, the gRPC server, gossip, the worker, the
// manager when the role says so, and the renewal of the certificate.
package node
