package transport

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"swarm/internal/bounds"
)

// maxErrorText limits the text of an error from a peer, in bytes. Such a text is logged, shown and
// passed on.
const maxErrorText = 16 << 10

// classes maps error classes to gRPC codes. A code that is in several rows maps back to the class
// of the first.
var classes = []struct {
	class error
	code  codes.Code
}{
	{errdefs.ErrInvalidArgument, codes.InvalidArgument},
	{errdefs.ErrNotFound, codes.NotFound},
	{errdefs.ErrAlreadyExists, codes.AlreadyExists},
	{errdefs.ErrPermissionDenied, codes.PermissionDenied},
	{errdefs.ErrResourceExhausted, codes.ResourceExhausted},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
	{errdefs.ErrAborted, codes.Aborted},
	{errdefs.ErrOutOfRange, codes.OutOfRange},
	{errdefs.ErrNotImplemented, codes.Unimplemented},
	{errdefs.ErrInternal, codes.Internal},
	{errdefs.ErrUnavailable, codes.Unavailable},
	{errdefs.ErrDataLoss, codes.DataLoss},
	{errdefs.ErrUnauthenticated, codes.Unauthenticated},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
}

func codeOf(class error) codes.Code {
	for _, c := range classes {
		if c.class == class {
			return c.code
		}
	}
	return codes.Unknown
}

func classOf(code codes.Code) error {
	for _, c := range classes {
		if c.code == code {
			return c.class
		}
	}
	return errdefs.ErrUnknown
}

// ToStatus turns an error into an error with a gRPC status. The message of the status is the text
// of the error in one line.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	class := errdefs.Resolve(err)
	code := codeOf(class)
	if s, ok := status.FromError(err); ok && code == codes.Unknown {
		return s.Err()
	}
	return status.Error(code, oneLine(err.Error()))
}

// remoteError is an error that a peer returned. It keeps the gRPC status, so that this node can
// pass the error on unchanged.
type remoteError struct {
	text   string
	class  error
	status *status.Status
}

func (e *remoteError) Error() string              { return e.text }
func (e *remoteError) Unwrap() error              { return e.class }
func (e *remoteError) GRPCStatus() *status.Status { return e.status }

// FromStatus turns the error of a gRPC call into an error with a class of errdefs or of package
// context. Its text has no gRPC wrapping, has one line and is at most 16 KiB long.
func FromStatus(err error) error {
	var known *remoteError
	if err == nil || errors.Is(err, io.EOF) || errors.As(err, &known) {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &remoteError{text: bounds.Text(oneLine(plainText(s.Message())), maxErrorText), class: classOf(s.Code()), status: s}
	if s.Message() != bounds.Text(s.Message(), maxErrorText) { // this node may pass the status on
		e.status = status.New(s.Code(), e.text)
	}
	return e
}

// grpcWrapping matches the text in which gRPC wraps the error of a failed connection attempt.
var grpcWrapping = regexp.MustCompile(`connection error: desc = ("(?:[^"\\]|\\.)*")`)

// plainText returns the text of a dial or handshake error without the text that gRPC puts around
// it.
func plainText(s string) string {
	if m := grpcWrapping.FindStringSubmatch(s); m != nil {
		if inner, err := strconv.Unquote(m[1]); err == nil {
			s = inner
		}
	}
	for _, prefix := range []string{
		"transport: Error while dialing: ",
		"transport: authentication handshake failed: ",
		"error reading server preface: ",
	} {
		s = strings.TrimPrefix(s, prefix)
	}
	if cause, ok := strings.CutPrefix(s, "error reading from server: "); ok {
		s = "the connection broke before an answer came (" + cause + "): try again"
	}
	return s
}

func oneLine(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

func unaryServerErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, ToStatus(err)
}

func streamServerErrors(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return ToStatus(next(srv, stream))
}

func unaryClientErrors(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(next(ctx, method, req, reply, cc, opts...))
}

func streamClientErrors(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return clientStream{s}, nil
}

// clientStream applies FromStatus to the errors of a stream.
type clientStream struct{ grpc.ClientStream }

func (s clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, FromStatus(err)
}
func (s clientStream) CloseSend() error    { return FromStatus(s.ClientStream.CloseSend()) }
func (s clientStream) SendMsg(m any) error { return FromStatus(s.ClientStream.SendMsg(m)) }
func (s clientStream) RecvMsg(m any) error { return FromStatus(s.ClientStream.RecvMsg(m)) }
