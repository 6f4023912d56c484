// Package cluster serves the RPCs of the cluster as a whole: its settings and join tokens, the
// credentials of its users, and the stream of its events.
//
// It refuses to show private keys, join tokens in events, and the data of secrets. Package control
// is its only caller. It starts no goroutine.
package cluster
