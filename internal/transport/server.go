package transport

import (
	"context"
	"net"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// ServerOptions are those of a gRPC server on Listener.GRPC and on ListenUnix, one server for both: it takes over what
// the listeners proved (FromContext), and turns errdefs' errors into statuses. The caller adds its own interceptors with
// grpc.ChainUnaryInterceptor and the like; those run inside of these, so their errors are turned too.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(serverCreds{}),
		grpc.ChainUnaryInterceptor(unaryServerErrors),
		grpc.ChainStreamInterceptor(streamServerErrors),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
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
