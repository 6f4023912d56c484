package transport

import (
	"time"

	"google.golang.org/grpc"
)

// firstPatience bounds how long the first message of a call of a worker may take, once it is read.
const firstPatience = 10 * time.Second

// boundFirst returns an interceptor that has one call of a connection read its first message at a time, and closes the
// connection when that takes longer than patience. gRPC has no such bound, and keeps what has come of a message for as long
// as the peer likes. Of a message whose turn has not come, the server takes no more than the first window of flow control.
//
// Interceptors see a call that gRPC knows as unary only after its message. The bound holds for streams, and for a server
// that serves all calls as streams, by grpc.UnknownServiceHandler.
func boundFirst(patience time.Duration) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		who, err := FromContext(stream.Context())
		if err != nil {
			return err
		}
		return next(srv, &firstStream{ServerStream: stream, who: who, patience: patience})
	}
}

// firstStream is a stream whose first message is bounded. Later ones are its handler's to bound.
type firstStream struct {
	grpc.ServerStream
	who      AuthInfo
	patience time.Duration
	begun    bool // the handler's: one goroutine receives
}

// RecvMsg implements grpc.ServerStream.
func (s *firstStream) RecvMsg(m any) error {
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
	late := time.AfterFunc(s.patience, s.who.HangUp)
	defer late.Stop()
	return s.ServerStream.RecvMsg(m)
}
