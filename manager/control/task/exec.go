package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
)

// Exec runs a command in a task, on whichever node the task is. It passes on the messages of the
// user and of the node.
func (s *Server) Exec(stream swarmv1.Control_ExecServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return errdefs.ErrInvalidArgument.WithMessage("exec: the first message must say in which task and what")
	}
	v := s.store.View()
	t, err := object.FindRunning(v, start.GetTaskId())
	if err != nil {
		return err
	}
	if st := v.Status(t.GetId()).GetState(); st != swarmv1.TaskState_RUNNING && st != swarmv1.TaskState_STARTING {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("task %s is not running but %s: list those that are with `swarm service ps`", t.GetId(), stateWord(st)))
	}
	start.TaskId = t.GetId()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	conn, err := s.nodes.Conn(t.GetNodeId())
	if err != nil {
		return fmt.Errorf("exec in task %s on node %s: %w", t.GetId(), object.NodeName(v, t.GetNodeId()), err)
	}
	node, err := swarmv1.NewWorkerClient(conn).Exec(ctx)
	if err != nil {
		return fmt.Errorf("exec in task %s on node %s: %w", t.GetId(), object.NodeName(v, t.GetNodeId()), err)
	}
	if err := node.Send(first); err != nil {
		return fmt.Errorf("exec in task %s: %w", t.GetId(), err)
	}
	return relay(stream, node)
}

// relay passes messages on in both directions until the node's stream ends. A goroutine reads the
// messages of the user. relay does not wait for it: gRPC ends its Recv only when the handler of the
// user's stream has returned.
func relay(user swarmv1.Control_ExecServer, node swarmv1.Worker_ExecClient) error {
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
			out, err = bounds.Output(out)
		}
		if err != nil {
			return err
		}
		if err := user.Send(out); err != nil {
			return err
		}
	}
}

func stateWord(st swarmv1.TaskState) string {
	switch st {
	case swarmv1.TaskState_NEW:
		return "new"
	case swarmv1.TaskState_PENDING:
		return "pending: no node has taken it yet"
	}
	return strings.ToLower(st.String())
}
