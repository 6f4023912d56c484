// Package term prints for the command line: escaped output, tables, JSON and templates, the words
// for states, times and ports, and the progress of long operations.
//
// The package owns the escaping of output (Printf, Unescaped, Content), the flag --format (Format,
// Table, ObjectFormat), the JSON form of messages (Describe), and terminals. It prints the values
// that verbs pass to it, and calls no daemon. Callers: the packages of verbs below cli. Goroutines:
// only the one that Terminal.Resized starts, which ends with its context.
package term
