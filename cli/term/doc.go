// Package term is what the command line prints: escaped output, tables, JSON and templates, the
// words for states, times and ports, and the progress of what takes long.
//
// It owns the streams' escaping (Printf, Unescaped, Content), the flag --format (Format, Table,
// ObjectFormat), the shape in which messages are shown as JSON (Describe), and terminals. It
// refuses to decide: it is given what to print and asks no daemon. Callers: the packages of verbs
// below cli. Goroutines: only the one that Terminal.Resized starts, which ends with its context.
package term
