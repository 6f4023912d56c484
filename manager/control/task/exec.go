package task

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
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
	t, err := s.running(start.GetTaskId())
	if err != nil {
		return err
	}
	start.TaskId = t.GetId()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	node, err := openOn(ctx, s, "exec in", t, first, swarmv1.WorkerClient.Exec)
	if err != nil {
		return err
	}
	return relay(stream, node, bounds.Output)
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
