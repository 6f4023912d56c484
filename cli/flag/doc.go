// Package flag holds the values that flags take, and the parsers of their texts: ports, mounts,
// networks, files, resources, placement, filters, durations of the past, and words of a shell.
//
// A type of this package implements pflag.Value. A parser turns one text into a message of the API.
// The package owns the meaning of these texts, and refuses texts that no cluster would accept. It
// has no connections, verbs or output. Callers: the packages of verbs below cli. It starts no
// goroutines.
package flag
