// Package image holds the verbs of `swarm image`: ls, load, pull, push, tag, inspect, rm and prune.
//
// Images are on nodes. This package sends archives to a manager, asks managers for transfers, and
// shows their progress. Callers: cli. Goroutines: load has one that sends an archive while load
// reads the progress; it ends with the verb.
package image
