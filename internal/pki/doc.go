// Package pki owns the proof of who is who: root certificates and bundles of them, node and user certificates, join
// tokens and keys. A node's certificate says its id and its cluster and nothing else; what a node may do is read from the
// replicated state at every call. A manager holds a second certificate, which says that it is one, for those who have no
// state to read: joiners, users, and managers whose replica is older than the certificate. The package refuses to know roles, sockets and the store, and it has no clock: callers
// pass the time. The certificate authority (manager/ca) signs with it, the transport verifies with it, the daemon keeps
// its credential with Disk, the only part that does I/O. It runs no goroutine.
//
// Rotation of the root: a new root is made and cross-signed by the old one; the bundle becomes {old, new, cross} and
// spreads; nodes renew under the new root; the bundle becomes {new}, and only then are join tokens made anew. At every
// moment a peer that knows only the old root can verify every certificate, and so can a joiner with an old token.
package pki
