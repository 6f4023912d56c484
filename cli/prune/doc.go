// Package prune removes unused objects from the nodes, for `system prune` and `image prune`.
//
// It asks the user before it removes them, unless --force is given. It prints the removed objects
// and the nodes that were not cleaned. Callers: the packages system and image. It starts no
// goroutines.
package prune
