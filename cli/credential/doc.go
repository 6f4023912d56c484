// Package credential holds the verbs of `swarm credential`: create, ls and rm. It also owns the
// format of the file in which a user keeps a client certificate.
//
// Keys are made here and never leave this machine, except in the file that the user asks for.
// Callers: cli, and cmd/swarm, which reads the file to connect to a remote daemon. It starts no
// goroutines.
package credential
