package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// forwardTimeout bounds the attempt to connect to a port of a container.
	forwardTimeout = 10 * time.Second
	// forwardBuffer is how many bytes of a connection one message carries at most.
	forwardBuffer = 32 << 10
)

// PortForward implements swarmv1.WorkerServer: one connection to a port of a task's container. It
// returns when both sides have closed the connection for writing, or one of them is gone.
func (w *Worker) PortForward(stream grpc.BidiStreamingServer[swarmv1.ForwardInput, swarmv1.ForwardOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start.GetPort() == 0 || start.GetPort() > math.MaxUint16 {
		return fmt.Errorf("port-forward: the first message must name a task and a port: %w", errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckKey("task", start.GetTaskId()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), forwardTimeout)
	conn, err := w.deps.Executor.Dial(ctx, start.GetTaskId(), uint16(start.GetPort()))
	cancel()
	if err != nil {
		return fmt.Errorf("port-forward to task %s: %w", start.GetTaskId(), err)
	}
	defer conn.Close()
	if err := stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_Connected{Connected: true}}); err != nil {
		return err
	}
	fed := make(chan error, 1)
	// This goroutine ends when the stream does, which may be after this function has returned. It
	// uses only the stream and the connection.
	go func() { fed <- feed(conn, stream) }()
	if err := drain(stream, conn); err != nil {
		return fmt.Errorf("port-forward to task %s: %w", start.GetTaskId(), err)
	}
	return <-fed
}

// feed writes the caller's data to the connection, and closes the connection for writing when the
// caller's data ends. If either side fails, it closes the connection, so that drain returns.
func feed(conn net.Conn, stream grpc.BidiStreamingServer[swarmv1.ForwardInput, swarmv1.ForwardOutput]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if c, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite() // An error means that the other side has closed the connection.
			}
			return nil
		}
		if err == nil {
			_, err = conn.Write(m.GetData())
		}
		if err != nil {
			_ = conn.Close()
			return err
		}
	}
}

// drain sends what it reads from the connection, and then that there is no more.
func drain(stream grpc.BidiStreamingServer[swarmv1.ForwardInput, swarmv1.ForwardOutput], conn net.Conn) error {
	for {
		buf := make([]byte, forwardBuffer) // gRPC may use the data after Send has returned.
		n, err := conn.Read(buf)
		if n > 0 {
			if err := stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_Data{Data: buf[:n]}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_End{End: true}})
		}
		if err != nil {
			return err
		}
	}
}
