// Package peer has the systems that command bench compares swarm with on the same machine: a
// cluster of dockerd in Swarm mode, and containerd alone. It times only CreateAndRemove. It has no
// goroutines that outlive a call.
package peer
