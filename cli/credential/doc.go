// Package credential holds the verbs of `swarm credential`: create, ls and rm. It also owns the
// format of the file in which a user keeps a client certificate.
//
// The package makes the keys. A key leaves this process only in the file that the user asks for.
// Callers: cli, and cmd/swarm, which reads the file to connect to a remote daemon. It starts no
// goroutines.
package credential
