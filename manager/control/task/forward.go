package task

import (
	"context"
	"fmt"
	"math"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// maxForwards is how many forwarded connections one manager carries at the same time. It keeps most
// streams of the connection to a node free for other calls, such as logs and exec.
const maxForwards = 256

// PortForward carries one connection to a port of a task, on whichever node the task is. If the
// first message has the port 0, it only checks that there is a running task.
func (s *Server) PortForward(stream swarmv1.Control_PortForwardServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || start.GetPort() > math.MaxUint16 {
		return errdefs.ErrInvalidArgument.WithMessage("port-forward: the first message must name a task and a port from 1 to 65535")
	}
	t, err := s.running(start.GetTaskId())
	if err != nil {
		return err
	}
	if start.GetPort() == 0 {
		return stream.Send(&swarmv1.ForwardOutput{Message: &swarmv1.ForwardOutput_Connected{Connected: true}})
	}
	select {
	case s.forwards <- struct{}{}:
		defer func() { <-s.forwards }()
	default:
		return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("this manager forwards %d connections already, which is the most: close some, or use another manager with -H", maxForwards))
	}
	start.TaskId = t.GetId()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	node, err := openOn(ctx, s, "port-forward to", t, first, swarmv1.WorkerClient.PortForward)
	if err != nil {
		return err
	}
	return relay(stream, node, bounds.Forwarded)
}
