package controltest

import (
	"context"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"swarm/internal/grpctest"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// proven are transport credentials that authenticate every peer as who.
type proven struct {
	credentials.TransportCredentials
	who transport.AuthInfo
}

func (p proven) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, p.who, nil
}
func (p proven) Clone() credentials.TransportCredentials { return p }

// translated is a stream whose errors have classes, as those of the transport do.
type translated struct{ grpc.ClientStream }

func (s translated) RecvMsg(m any) error { return transport.FromStatus(s.ClientStream.RecvMsg(m)) }

// Serve runs a gRPC server until the test ends, and connects to it. Every caller is who. judge
// authorises each call by its full method. Errors have classes on both sides, as those of the
// transport do.
func Serve(t *testing.T, who transport.AuthInfo, register func(grpc.ServiceRegistrar), judge func(context.Context, string) error) *grpc.ClientConn {
	t.Helper()
	server := grpc.NewServer(
		grpc.Creds(proven{insecure.NewCredentials(), who}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := judge(ctx, info.FullMethod); err != nil {
				return nil, transport.ToStatus(err)
			}
			resp, err := next(ctx, req)
			return resp, transport.ToStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := judge(s.Context(), info.FullMethod); err != nil {
				return transport.ToStatus(err)
			}
			return transport.ToStatus(next(srv, s))
		}),
	)
	register(server)
	return grpctest.Serve(t, server,
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, m string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := next(ctx, d, cc, m, o...)
			return translated{stream}, transport.FromStatus(err)
		}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, m string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return transport.FromStatus(next(ctx, m, req, reply, cc, o...))
		}))
}

// ServeWorker runs the Worker service of a node until the test ends, and connects to it as a
// manager.
func ServeWorker(t *testing.T, worker swarmv1.WorkerServer) *grpc.ClientConn {
	return Serve(t, NodeInfo(Self), func(s grpc.ServiceRegistrar) { swarmv1.RegisterWorkerServer(s, worker) },
		func(context.Context, string) error { return nil })
}

// NodeInfo is a caller with a valid certificate of a node.
func NodeInfo(id string) transport.AuthInfo {
	return transport.AuthInfo{Peer: pki.Peer{Kind: pki.KindNode, ID: id, NotAfter: time.Now().Add(time.Hour), Cert: certOf(id)}}
}

// certOf stands for a node's certificate: its key is the node's id.
func certOf(id string) *x509.Certificate {
	return &x509.Certificate{RawSubjectPublicKeyInfo: []byte(id)}
}
