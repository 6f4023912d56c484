// Package command has the parts that the verbs of all nouns share: the connection to a daemon, the
// streams, the flags of the whole program, lists, `inspect`, and the texts for errors of calls.
//
// Every verb gets a Deps: newCreate(deps) returns a cobra command, whose RunE fills an options
// struct and calls runCreate(ctx, deps, opts), which needs no cobra. The package depends on no
// noun. Callers: cli, the packages of verbs below cli, and cmd/swarm for the types that cmd/swarm
// implements. Goroutines: Deps.ExplainDelay runs one, which ends before the verb does.
package command
