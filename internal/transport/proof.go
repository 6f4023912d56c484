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

// proofKey is the header of a call, and of its answer, in which the two ends prove that they know
// the same join token.
const proofKey = "swarm-join-proof-bin"

// errUnproved is what a joiner says of a server that accepted its proof, or claims to, and has none
// of its own.
var errUnproved = errdefs.ErrUnauthenticated.WithMessage("the host that answers does not know the join token: it is not a manager of this cluster, or it was replaced; get the address with `swarm join-token` on a manager")

// Proving returns a connection on which every call proves the token to the server, and which passes
// no answer on before the server has proved that it knows the token too. The token itself is never
// sent. An error of the server needs no proof.
func Proving(conn grpc.ClientConnInterface, token pki.Token) grpc.ClientConnInterface {
	return proving{conn: conn, token: token}
}

type proving struct {
	conn  grpc.ClientConnInterface
	token pki.Token
}

func (p proving) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var header metadata.MD
	var at peer.Peer
	opts = append(opts[:len(opts):len(opts)], grpc.PerRPCCredentials(prover{p.token}), grpc.Header(&header), grpc.Peer(&at))
	if err := p.conn.Invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	return checkServer(p.token, header, at)
}

func (p proving) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	opts = append(opts[:len(opts):len(opts)], grpc.PerRPCCredentials(prover{p.token}))
	stream, err := p.conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &provingStream{ClientStream: stream, token: p.token}, nil
}

// provingStream checks the server's proof before its first message. Like any stream it has one
// receiver.
type provingStream struct {
	grpc.ClientStream
	token  pki.Token
	proved bool
}

func (s *provingStream) RecvMsg(m any) error {
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
	if err := checkServer(s.token, header, at); err != nil {
		return err
	}
	s.proved = true
	return nil
}

// checkServer judges the header of an answer that came over the connection to a peer.
func checkServer(token pki.Token, header metadata.MD, at peer.Peer) error {
	info, _ := at.AuthInfo.(AuthInfo)
	if !token.Proves(proofIn(header), pki.SideManager, info.Binding) {
		return errUnproved
	}
	return nil
}

// prover makes the header of a call for the connection over which that call goes: which one that
// is, only gRPC knows.
type prover struct{ token pki.Token }

func (p prover) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	call, _ := credentials.RequestInfoFromContext(ctx)
	info, ok := call.AuthInfo.(AuthInfo)
	if !ok || len(info.Binding) == 0 {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("a join token can only be proved to another host")
	}
	return map[string]string{proofKey: string(p.token.Proof(pki.SideJoiner, info.Binding))}, nil
}

func (prover) RequireTransportSecurity() bool { return true }

// Proved returns which of the tokens the caller of a gRPC method has proved that it knows, and -1
// for none of them. It compares with all of them, whatever the outcome.
func Proved(ctx context.Context, tokens ...pki.Token) (int, error) {
	info, err := FromContext(ctx)
	if err != nil {
		return -1, err
	}
	header, _ := metadata.FromIncomingContext(ctx)
	proof, which := proofIn(header), -1
	for i, t := range tokens {
		if t.Proves(proof, pki.SideJoiner, info.Binding) {
			which = i
		}
	}
	return which, nil
}

// AnswerProof makes the answer of a gRPC method prove that this side knows the token. Call it once,
// for the token that the caller has proved.
func AnswerProof(ctx context.Context, token pki.Token) error {
	info, err := FromContext(ctx)
	if err != nil {
		return err
	}
	return grpc.SetHeader(ctx, metadata.Pairs(proofKey, string(token.Proof(pki.SideManager, info.Binding))))
}

// WithProof returns a context as the handler of a call sees it whose caller knows the token, for
// tests.
func WithProof(ctx context.Context, token pki.Token) context.Context {
	info := AuthInfo{Binding: []byte("a connection of a test")}
	ctx = grpc.NewContextWithServerTransportStream(WithAuthInfo(ctx, info), noStream{})
	return metadata.NewIncomingContext(ctx, metadata.Pairs(proofKey, string(token.Proof(pki.SideJoiner, info.Binding))))
}

// noStream takes the header of an answer that nobody receives.
type noStream struct{}

func (noStream) Method() string               { return "" }
func (noStream) SetHeader(metadata.MD) error  { return nil }
func (noStream) SendHeader(metadata.MD) error { return nil }
func (noStream) SetTrailer(metadata.MD) error { return nil }

// proofIn reads a header; nil for none, and for several.
func proofIn(header metadata.MD) []byte {
	if given := header.Get(proofKey); len(given) == 1 {
		return []byte(given[0])
	}
	return nil
}
