// Package image holds the verbs of `swarm image`: ls, load, pull, push, tag, inspect, rm and prune.
//
// Images lie on managers and nodes; this package sends archives, asks for transfers and shows how
// far they are. Callers: cli. Goroutines: load sends an archive in one while it reads the progress;
// it ends with the verb.
package image
