// Package transport connects members and users to each other. It has three parts:
//
//   - Listener is the one TLS 1.3 listener of a node. It does the handshake and passes each
//     connection on by its ALPN protocol: to gRPC, Raft or the blob server.
//   - ListenUnix is the local socket for the CLI.
//   - Dialer and PinnedBootstrap open connections to other nodes.
//
// The package proves the identity of the peer (AuthInfo). It does not decide what the peer may do:
// the caller decides that from the replicated state, for every connection (ListenerDeps.Admit) and
// for every call. Each handshake reads the certificates and roots from an Identity, so both can
// change while connections are open. A connection ends when the certificate of its peer expires.
//
// A caller is a stranger until it has proved a valid certificate. Strangers share limits on
// handshakes, connections and bytes, and a separate gRPC server serves them (StrangerOptions), so
// strangers cannot use up the resources of members.
//
// The daemon and the CLI use this package. Listener.Run starts one goroutine for each unfinished
// handshake and waits for all of them. gRPC clients have the goroutines of gRPC; Close ends them.
package transport

// The ALPN names of the protocols on the one port of a node.
const (
	ProtoGRPC = "h2"
	ProtoRaft = "swarm-raft/1"
	ProtoBlob = "swarm-blob/1"
	// protoRoots is for joiners. The server presents its roots together with its certificate, and
	// both sides close the connection after the handshake.
	protoRoots = "swarm-roots/1"
)
