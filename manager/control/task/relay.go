package task

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
)

// running returns the task that ref means, which must have a container that runs. See
// object.FindRunning for the choice between several tasks.
func (s *Server) running(ref string) (*swarmv1.Task, error) {
	v := s.store.View()
	t, err := object.FindRunning(v, ref)
	if err != nil {
		return nil, err
	}
	if st := v.Status(t.GetId()).GetState(); st != swarmv1.TaskState_RUNNING && st != swarmv1.TaskState_STARTING {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s is not running but %s: list those that are with `swarm service ps`", t.GetId(), stateWord(st)))
	}
	return t, nil
}

// openOn opens a stream to the node of a task and sends its first message. op is the call's name in
// errors. The end of ctx ends the stream.
func openOn[In, Out any](ctx context.Context, s *Server, op string, t *swarmv1.Task, first *In,
	open func(swarmv1.WorkerClient, context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[In, Out], error),
) (grpc.BidiStreamingClient[In, Out], error) {
	conn, err := s.nodes.Conn(t.GetNodeId())
	if err != nil {
		return nil, fmt.Errorf("%s task %s on node %s: %w", op, t.GetId(), object.NodeName(s.store.View(), t.GetNodeId()), err)
	}
	node, err := open(swarmv1.NewWorkerClient(conn), ctx)
	if err != nil {
		return nil, fmt.Errorf("%s task %s on node %s: %w", op, t.GetId(), object.NodeName(s.store.View(), t.GetNodeId()), err)
	}
	if err := node.Send(first); err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv returns the reason.
		return nil, fmt.Errorf("%s task %s: %w", op, t.GetId(), err)
	}
	return node, nil
}

// relay passes messages on in both directions until the node's stream ends. check returns an error
// for a message of the node that must not be passed on. A goroutine reads the messages of the user.
// relay does not wait for it: gRPC ends its Recv only when the handler of the user's stream has
// returned.
func relay[In, Out any](user grpc.BidiStreamingServer[In, Out], node grpc.BidiStreamingClient[In, Out], check func(*Out) (*Out, error)) error {
	go func() {
		for {
			in, err := user.Recv()
			if errors.Is(err, io.EOF) {
				_ = node.CloseSend()
				return
			}
			if err != nil || node.Send(in) != nil {
				return
			}
		}
	}()
	for {
		out, err := node.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			out, err = check(out)
		}
		if err != nil {
			return err
		}
		if err := user.Send(out); err != nil {
			return err
		}
	}
}
