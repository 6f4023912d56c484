// Package pki makes and verifies the identities of a cluster: root certificates and bundles of
// them, node and user certificates, join tokens, and their keys.
//
// A node's certificate names the node and its cluster, and nothing else. Managers read from the
// replicated state what a node may do, for every call. A manager holds a second certificate, which
// says that the node is a manager. It presents this certificate to peers that cannot read the
// replicated state: joiners, users, and managers whose replica is older than the certificate.
//
// The package knows no roles, sockets or store, and it has no clock: callers pass the time. It runs
// no goroutine. The certificate authority (manager/ca) signs with it, internal/transport verifies
// with it, and the daemon keeps its credential with Disk, which is the only part that does I/O.
//
// A rotation of the root has four steps. First, a new root is made and the old root cross-signs it.
// Then the bundle becomes {old, new, cross} and is distributed to all nodes. Then the nodes renew
// their certificates under the new root. Last, the bundle becomes {new} and new join tokens are
// made. At every step, a peer that knows only the old root can verify every certificate, and so can
// a joiner with an old token.
package pki
