// Package peer has what command bench compares swarm with on the same machine: a cluster of dockerd
// in Swarm mode, and containerd without anything around it. It times nothing but CreateAndRemove.
// It has no goroutines that outlive a call.
package peer
