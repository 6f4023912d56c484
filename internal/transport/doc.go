// Package transport owns how members and users reach each other: the one TLS 1.3 listener of a node (Listener), which
// does the handshake itself and hands connections on by ALPN to gRPC, Raft and the blob server; the local socket of the
// CLI (ListenUnix); and the way out (Dialer, PinnedBootstrap). It proves who the peer is (AuthInfo) and refuses to decide
// what the peer may do: that is the authorisation's, from the replicated state, at every connection (ListenerDeps.Admit)
// and at every call. Certificates and roots are read from an Identity at each handshake, so both can change while
// connections live. A connection ends with the certificate of its peer.
//
// A caller is a stranger until its certificate has proved to be valid. Strangers share budgets of handshakes, connections
// and bytes, and a gRPC server of their own (StrangerOptions): what they do costs members nothing.
//
// The daemon and the CLI call it. Goroutines: Listener.Run has one per unfinished handshake and waits for them; gRPC
// clients have gRPC's own, ended by Close.
package transport

// The ALPN names of what runs on a node's one port.
const (
	ProtoGRPC = "h2"
	ProtoRaft = "swarm-raft/1"
	ProtoBlob = "swarm-blob/1"
	// protoRoots is for joiners: the server presents its roots too, and both sides hang up after the handshake.
	protoRoots = "swarm-roots/1"
)
