// Package clitest runs command lines in tests: the whole program, against a fake manager that
// records the requests.
//
// Run is one command line with its input, environment and clock. Server is the fake manager. Golden
// compares output with a file in the folder testdata of the package that is tested; `go test
// -update` writes the files. Callers: the tests of cli and of the packages below cli, which are
// external tests because this package imports cli. Goroutines: the server of each connection, which
// ends when the connection is closed.
package clitest
