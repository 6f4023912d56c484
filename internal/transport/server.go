package transport

import (
	"context"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"swarm/internal/bounds"
	"swarm/internal/codec"
)

const (
	// memberStreams limits the open calls on one connection of a manager or user. Followed logs and
	// exec sessions are such calls. Further calls wait.
	memberStreams = 1024
	// memberHeaders and strangerHeaders limit the headers of a call, in bytes.
	memberHeaders, strangerHeaders = 64 << 10, 8 << 10

	// workerStreams limits the open calls on one connection of a worker, which has one session and
	// a few short calls.
	workerStreams = 8
	// MaxWorkerMessage is the largest message of a worker, in bytes. Reports are the largest
	// messages. For each connection, the server holds one unfinished message that it reads, and the
	// first flow-control window of each other one (see limitFirstMessage): for one certificate key,
	// maxWorkerConns times 832 KiB, plus one message of the session of the node.
	MaxWorkerMessage = bounds.MaxReport + 64<<10

	// The limits of strangers: open calls on one connection, and bytes of a message and of a
	// buffer. A join is two calls with messages of less than 2 KiB.
	strangerStreams = 8
	strangerMessage = 8 << 10
	strangerBuffer  = 4 << 10
	// strangerIdle ends a connection without calls. strangerAge ends every connection; open calls
	// may then take another strangerGrace to end.
	strangerIdle  = 10 * time.Second
	strangerAge   = time.Minute
	strangerGrace = 15 * time.Second
	// These are flow-control windows of HTTP/2, in bytes. A window that is set does not grow.
	// gRPC would make other windows fit the bandwidth, for which it answers every message with a
	// ping. Idle nodes send each other a message every second, so the pings took 12% of the
	// processor time of an idle manager. smallWindow is the smallest window, for streams of
	// messages that are small or must not run far ahead of their reader. nodeWindow is for all
	// streams of a connection between two nodes, and memberWindow for uploads, such as images:
	// with a round-trip time of 50 ms it allows 80 MB/s.
	smallWindow  = 64<<10 - 1
	nodeWindow   = 1 << 20
	memberWindow = 4 << 20
	// prefaceTimeout limits the time until a connection begins HTTP/2.
	prefaceTimeout = 10 * time.Second
)

// ServerOptions returns the options of the gRPC server for Listener.GRPC and ListenUnix; one server
// may serve both. The server takes over the identities that the listeners proved (FromContext), and
// turns errors of errdefs into gRPC statuses. The caller may add interceptors, for example with
// grpc.ChainUnaryInterceptor. They run inside the interceptors of this package, so their errors are
// turned too.
func ServerOptions() []grpc.ServerOption {
	return append(commonOptions(),
		grpc.MaxConcurrentStreams(memberStreams),
		grpc.MaxHeaderListSize(memberHeaders),
		grpc.StaticStreamWindowSize(memberWindow),
		grpc.StaticConnWindowSize(memberWindow),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxAnswer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
}

// WorkerOptions returns the options of the gRPC server for Listener.Workers. It is like a server
// with ServerOptions, but messages are smaller, calls are fewer, and the first message of a call
// has a time limit. The server must serve all calls as streams, see limitFirstMessage.
func WorkerOptions() []grpc.ServerOption {
	return append(commonOptions(),
		grpc.MaxConcurrentStreams(workerStreams),
		grpc.MaxHeaderListSize(strangerHeaders),
		grpc.MaxRecvMsgSize(MaxWorkerMessage),
		grpc.ChainStreamInterceptor(limitFirstMessage(firstMessageTimeout)),
		grpc.StaticStreamWindowSize(smallWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
}

// StrangerOptions returns the options of the gRPC server for Listener.Strangers. It is like a
// server with ServerOptions, but messages are small, calls are few, and every connection has a
// maximum age.
func StrangerOptions() []grpc.ServerOption {
	return append(commonOptions(),
		grpc.MaxConcurrentStreams(strangerStreams),
		grpc.MaxHeaderListSize(strangerHeaders),
		grpc.MaxRecvMsgSize(strangerMessage),
		grpc.StaticStreamWindowSize(smallWindow),
		grpc.StaticConnWindowSize(smallWindow),
		grpc.ReadBufferSize(strangerBuffer),
		grpc.WriteBufferSize(strangerBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout,
			MaxConnectionIdle: strangerIdle, MaxConnectionAge: strangerAge, MaxConnectionAgeGrace: strangerGrace,
		}),
	)
}

func commonOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(serverCreds{}),
		grpc.ForceServerCodecV2(codec.Codec{}),
		grpc.ChainUnaryInterceptor(unaryServerErrors),
		grpc.ChainStreamInterceptor(streamServerErrors),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// serverCreds passes on the identity that a listener of this package has proved. It refuses every
// other connection.
type serverCreds struct{}

func (serverCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c, ok := conn.(*peerConn); ok {
		return c, c.info, nil
	}
	return nil, nil, errdefs.ErrUnauthenticated.WithMessage("the connection did not come through a listener that proves the identity of the peer")
}

func (serverCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errdefs.ErrNotImplemented.WithMessage("these credentials are for servers")
}

func (serverCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c serverCreds) Clone() credentials.TransportCredentials { return c }
func (serverCreds) OverrideServerName(string) error           { return nil }
