// Package usage words what is wrong with a command line, and holds the exit codes of the program.
//
// It owns the checks of the number of arguments, the error of a value that can be nothing sensible
// (Invalidf), the error that points to a command's help (Errorf), and the exit codes of errors. It
// knows nothing of daemons. Callers: all packages below cli. It starts no goroutines.
package usage
