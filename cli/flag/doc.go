// Package flag holds the values that flags take, and the parsers of their texts: ports, mounts,
// networks, files, resources, placement, filters, durations of the past, and words of a shell.
//
// A type of this package implements pflag.Value, or a parser turns one text into what the API calls
// it. It owns what a text means; it refuses texts that no cluster would accept. It knows nothing of
// connections, verbs or output. Callers: the packages of verbs below cli. It starts no goroutines.
package flag
