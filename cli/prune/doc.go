// Package prune removes what nothing uses from the nodes, for `system prune` and `image prune`.
//
// It asks before it removes, unless told otherwise, and prints what went and from how many nodes
// nothing could be removed. Callers: the packages system and image. It starts no goroutines.
package prune
