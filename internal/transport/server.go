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
)

const (
	// memberStreams bounds the calls that one connection of a node or user has open at once: followed logs and exec sessions
	// are such calls. Those beyond wait.
	memberStreams = 1024
	// memberHeaders and strangerHeaders bound the headers of a call, in bytes.
	memberHeaders, strangerHeaders = 64 << 10, 8 << 10

	// What workers may have. A connection of a worker has a session, and a few short calls. MaxWorkerMessage is the largest
	// message of a worker, in bytes; a report is. Of unfinished messages the server holds of one connection one that is read,
	// and the first window of the others (boundFirst): of one key, maxOfWorker times 832 KiB. To these comes one message of the
	// session of the node.
	workerStreams    = 8
	MaxWorkerMessage = bounds.MaxReport + 64<<10

	// What strangers may have. A join is two calls with messages of less than 2 KiB.
	strangerStreams = 8
	strangerMessage = 8 << 10
	strangerBuffer  = 4 << 10
	// strangerIdle ends a connection without calls, strangerAge any connection; calls that are under way then have
	// strangerGrace to end.
	strangerIdle  = 10 * time.Second
	strangerAge   = time.Minute
	strangerGrace = 15 * time.Second
	// smallWindow is the least flow control window that HTTP/2 knows. Set, it does not grow.
	smallWindow = 64<<10 - 1
	// prefaceTimeout bounds how long a connection may take to begin HTTP/2.
	prefaceTimeout = 10 * time.Second
)

// ServerOptions are those of the gRPC server on Listener.GRPC and on ListenUnix, one server for both: it takes over what
// the listeners proved (FromContext), and turns errdefs' errors into statuses. The caller adds its own interceptors with
// grpc.ChainUnaryInterceptor and the like; those run inside of these, so their errors are turned too.
func ServerOptions() []grpc.ServerOption {
	return append(commonOptions(),
		grpc.MaxConcurrentStreams(memberStreams),
		grpc.MaxHeaderListSize(memberHeaders),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxAnswer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
}

// WorkerOptions are those of the gRPC server on Listener.Workers. It does what a server with ServerOptions does, with smaller
// messages and fewer calls, whose first messages must come soon. It must serve all calls as streams, see boundFirst.
func WorkerOptions() []grpc.ServerOption {
	return append(commonOptions(),
		grpc.MaxConcurrentStreams(workerStreams),
		grpc.MaxHeaderListSize(strangerHeaders),
		grpc.MaxRecvMsgSize(MaxWorkerMessage),
		grpc.ChainStreamInterceptor(boundFirst(firstPatience)),
		grpc.StaticStreamWindowSize(smallWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
}

// StrangerOptions are those of the gRPC server on Listener.Strangers. It does what a server with ServerOptions does, within
// the limits for callers that have proven nothing: small messages, few calls, and an end to every connection.
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
		grpc.ChainUnaryInterceptor(unaryServerErrors),
		grpc.ChainStreamInterceptor(streamServerErrors),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// serverCreds passes on what the listener has already proven, and accepts no other connection.
type serverCreds struct{}

func (serverCreds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c, ok := conn.(*peerConn); ok {
		return c, c.info, nil
	}
	return nil, nil, errdefs.ErrUnauthenticated.WithMessage("the connection did not come through a listener that knows its peer")
}

func (serverCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errdefs.ErrNotImplemented.WithMessage("these credentials are for servers")
}

func (serverCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c serverCreds) Clone() credentials.TransportCredentials { return c }
func (serverCreds) OverrideServerName(string) error           { return nil }
