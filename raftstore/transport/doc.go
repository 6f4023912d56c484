// Package transport carries Raft's messages between managers. A connection starts with a hello that
// names the caller's node, cluster and epoch. The transport refuses callers of another cluster or
// epoch, and every message that names another sender than the node that the connection has
// authenticated.
//
// Only package raftstore uses it. Goroutines: New starts one that accepts connections, and each
// accepted connection has its own; Close ends all of them and waits. Raft's own transport adds one
// for each connection and one for each pipeline.
package transport
