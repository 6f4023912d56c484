// Package transport carries Raft's messages between managers. A connection starts with a hello that
// names the caller's node, cluster and epoch. The transport refuses a caller with another cluster
// or epoch, and every message whose sender is not the node as which the caller has authenticated.
//
// Only package raftstore uses it. Goroutines: New starts one that accepts connections, and one runs
// for each accepted connection; Close ends all of them and waits. The transport of hashicorp/raft
// adds one for each connection and one for each pipeline.
package transport
