// Package clitest runs command lines in tests: the whole program, against a manager that remembers
// what it was asked.
//
// Run is one command line with its surroundings, Server the manager, and Golden compares output
// with a file in the folder testdata of the package that is tested; `go test -update` writes the
// files. Callers: the tests of cli and of the packages below it, which are external tests because
// this package imports cli. Goroutines: the server of each connection, which ends when the
// connection is closed.
package clitest
