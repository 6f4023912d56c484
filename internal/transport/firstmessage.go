package transport

import (
	"time"

	"google.golang.org/grpc"
)

// firstMessageTimeout limits the time that the first message of a call of a worker may take,
// counted from the start of its read.
const firstMessageTimeout = 10 * time.Second

// limitFirstMessage returns an interceptor for streams. It lets one call of a connection at a time
// read its first message, and closes the connection if that read takes longer than timeout. gRPC
// has no such limit: a peer that never sends the rest of a message makes the server keep the first
// part for ever. While a call waits for its turn, the server receives no more of its message than
// the first flow-control window.
//
// gRPC calls an interceptor of a unary call only after it has read the message. The limit therefore
// needs streams, or a server that serves all calls as streams through grpc.UnknownServiceHandler.
func limitFirstMessage(timeout time.Duration) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		who, err := FromContext(stream.Context())
		if err != nil {
			return err
		}
		return next(srv, &firstMessageStream{ServerStream: stream, who: who, timeout: timeout})
	}
}

// firstMessageStream limits the first message of a stream. The handler of the stream limits later
// messages.
type firstMessageStream struct {
	grpc.ServerStream
	who     AuthInfo
	timeout time.Duration
	begun   bool // needs no lock: only the goroutine of the handler receives
}

// RecvMsg implements grpc.ServerStream.
func (s *firstMessageStream) RecvMsg(m any) error {
	if s.begun {
		return s.ServerStream.RecvMsg(m)
	}
	s.begun = true
	select {
	case s.who.conn.reading <- struct{}{}:
	case <-s.Context().Done():
		return s.Context().Err()
	}
	defer func() { <-s.who.conn.reading }()
	late := time.AfterFunc(s.timeout, s.who.CloseConn)
	defer late.Stop()
	return s.ServerStream.RecvMsg(m)
}
