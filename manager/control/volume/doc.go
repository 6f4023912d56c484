// Package volume serves swarmv1.Volumes: it lists the volumes of the cluster, and makes and removes
// them on their nodes.
//
// The disk of a node decides which volumes exist there. So a change is first made on the node, and
// then in the replicated state, where the node's report would make it too (package dispatch). A
// volume on a file server belongs to no node: its row is all of it, and nodes mount it when a task
// needs it.
//
// Package control is the only caller. Goroutines: those of PruneVolumes, which end with the call.
package volume
