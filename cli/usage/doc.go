// Package usage has the errors of wrong command lines and the exit codes of the program.
//
// The package owns the checks of the number of arguments, the error of an invalid value (Invalidf),
// the error that points to a command's help (Errorf), and the exit codes of errors. It has nothing
// to do with daemons. Callers: all packages below cli. It starts no goroutines.
package usage
