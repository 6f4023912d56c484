// Package command is what the verbs of all nouns share: the connection to a daemon, the streams,
// the flags of the whole program, lists, `inspect`, and the words for errors of calls.
//
// Deps goes to every verb: newCreate(deps) returns a cobra command, whose RunE fills an options
// struct and calls runCreate(ctx, deps, opts), which needs no cobra. The package refuses to know
// any noun. Callers: cli, the packages of verbs below it, and cmd/swarm for the types that it
// implements. Goroutines: the one of Deps.SaySlow, which ends before the verb does.
package command
