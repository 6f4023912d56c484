package transport

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"swarm/internal/pki"
)

// proofKey is the header in which both ends prove that they know the same join token: the client in
// the call, the server in the answer.
const proofKey = "swarm-join-proof-bin"

// errServerUnproven is the error of a joiner if the server answers without a valid proof.
var errServerUnproven = errdefs.ErrUnauthenticated.WithMessage("the host that answers does not know the join token: it is not a manager of this cluster, or it was replaced; get the address with `swarm join-token` on a manager")

// Proving returns a connection that proves the token to the server on every call. It passes on an
// answer only after the server has proved that it knows the token too. It passes on errors of the
// server without a proof. The token itself is never sent.
func Proving(conn grpc.ClientConnInterface, token pki.Token) grpc.ClientConnInterface {
	return proofConn{conn: conn, token: token}
}

type proofConn struct {
	conn  grpc.ClientConnInterface
	token pki.Token
}

func (p proofConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var header metadata.MD
	var at peer.Peer
	opts = append(opts[:len(opts):len(opts)], grpc.PerRPCCredentials(proofCredentials{p.token}), grpc.Header(&header), grpc.Peer(&at))
	if err := p.conn.Invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	return checkServerProof(p.token, header, at)
}

func (p proofConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	opts = append(opts[:len(opts):len(opts)], grpc.PerRPCCredentials(proofCredentials{p.token}))
	stream, err := p.conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &proofStream{ClientStream: stream, token: p.token}, nil
}

// proofStream checks the proof of the server before it passes on the first message. Like any
// stream, it has one receiver.
type proofStream struct {
	grpc.ClientStream
	token  pki.Token
	proved bool
}

func (s *proofStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil || s.proved {
		return err
	}
	header, err := s.Header()
	if err != nil {
		return err
	}
	var at peer.Peer
	if p, ok := peer.FromContext(s.Context()); ok {
		at = *p
	}
	if err := checkServerProof(s.token, header, at); err != nil {
		return err
	}
	s.proved = true
	return nil
}

// checkServerProof checks the proof in the header of an answer. at is the peer of the connection on
// which the answer came.
func checkServerProof(token pki.Token, header metadata.MD, at peer.Peer) error {
	info, _ := at.AuthInfo.(AuthInfo)
	if !token.Proves(proofFrom(header), pki.SideManager, info.Binding) {
		return errServerUnproven
	}
	return nil
}

// proofCredentials adds the proof to the header of a call. It implements
// credentials.PerRPCCredentials because only gRPC knows on which connection a call goes.
type proofCredentials struct{ token pki.Token }

func (p proofCredentials) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	call, _ := credentials.RequestInfoFromContext(ctx)
	info, ok := call.AuthInfo.(AuthInfo)
	if !ok || len(info.Binding) == 0 {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("a join token can only be proved to another host")
	}
	return map[string]string{proofKey: string(p.token.Proof(pki.SideJoiner, info.Binding))}, nil
}

func (proofCredentials) RequireTransportSecurity() bool { return true }

// Proved returns the index of the token that the caller of a gRPC method has proved to know, and -1
// if there is none. It compares the proof with every token, so its time does not reveal the index.
func Proved(ctx context.Context, tokens ...pki.Token) (int, error) {
	info, err := FromContext(ctx)
	if err != nil {
		return -1, err
	}
	header, _ := metadata.FromIncomingContext(ctx)
	proof, which := proofFrom(header), -1
	for i, t := range tokens {
		if t.Proves(proof, pki.SideJoiner, info.Binding) {
			which = i
		}
	}
	return which, nil
}

// AnswerProof adds to the answer of a gRPC method the proof that this server knows the token. Call
// it once per call, with the token that the caller has proved.
func AnswerProof(ctx context.Context, token pki.Token) error {
	info, err := FromContext(ctx)
	if err != nil {
		return err
	}
	return grpc.SetHeader(ctx, metadata.Pairs(proofKey, string(token.Proof(pki.SideManager, info.Binding))))
}

// WithProof returns the context that a handler gets if its caller has proved the token. It is for
// tests.
func WithProof(ctx context.Context, token pki.Token) context.Context {
	info := AuthInfo{Binding: []byte("a connection of a test")}
	ctx = grpc.NewContextWithServerTransportStream(WithAuthInfo(ctx, info), discardStream{})
	return metadata.NewIncomingContext(ctx, metadata.Pairs(proofKey, string(token.Proof(pki.SideJoiner, info.Binding))))
}

// discardStream discards the header of an answer.
type discardStream struct{}

func (discardStream) Method() string               { return "" }
func (discardStream) SetHeader(metadata.MD) error  { return nil }
func (discardStream) SendHeader(metadata.MD) error { return nil }
func (discardStream) SetTrailer(metadata.MD) error { return nil }

// proofFrom returns the proof in a header, and nil if there is none or more than one.
func proofFrom(header metadata.MD) []byte {
	if given := header.Get(proofKey); len(given) == 1 {
		return []byte(given[0])
	}
	return nil
}
