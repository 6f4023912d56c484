// Package proto holds the API definitions; the generated code is in swarm/v1, committed, and
// reproduced by `make generate`.
package proto

//go:generate go run ./gen .
