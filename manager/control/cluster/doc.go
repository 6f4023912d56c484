// Package cluster serves the RPCs of the cluster as a whole: its settings and join tokens, the
// credentials of its users, and the stream of its events.
//
// No answer has a private key or the data of a secret, and no event has a join token. Package
// control is the only caller. The package starts no goroutine.
package cluster
