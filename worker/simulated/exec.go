package simulated

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Exec implements engine.Executor.
func (r *Runtime) Exec(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) (_ int, err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.fail("exec", start.TaskId); err != nil {
		return 0, err
	}
	if err := r.mustRun(start.TaskId); err != nil {
		return 0, fmt.Errorf("exec in task %s: %w", start.TaskId, err)
	}
	if r.cfg.Exec == nil && !isKnown(start.Command) {
		return 0, &engine.CommandError{NotFound: true, Text: fmt.Sprintf("exec %q: no such program", start.Command)}
	}
	if streams.Started != nil {
		streams.Started()
	}
	if r.cfg.Exec == nil {
		return play(start.Command, streams)
	}
	code := r.cfg.Exec(ctx, start, streams)
	return code, ctx.Err()
}

// Dial implements engine.Executor.
func (r *Runtime) Dial(ctx context.Context, taskID string, port uint16) (_ net.Conn, err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.mustRun(taskID); err != nil {
		return nil, fmt.Errorf("connect to task %s: %w", taskID, err)
	}
	if r.cfg.Dial == nil {
		return nil, fmt.Errorf("connect to task %s: nothing listens on port %d: %w", taskID, port, errdefs.ErrFailedPrecondition)
	}
	return r.cfg.Dial(ctx, taskID, port)
}

// mustRun returns an error if the task has no container that runs.
func (r *Runtime) mustRun(taskID string) error {
	c := r.get(taskID)
	if c == nil {
		return fmt.Errorf("no container: %w", errdefs.ErrNotFound)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.running() {
		return fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// isKnown reports whether play can run the program.
func isKnown(command []string) bool {
	return len(command) > 0 && slices.Contains([]string{"true", "false", "echo", "cat"}, command[0])
}

// play acts as one of the few programs that the contract suite uses.
func play(command []string, s engine.ExecStreams) (code int, err error) {
	if command[0] == "false" {
		code = 1
	}
	if s.Stdout == nil {
		return code, nil
	}
	switch command[0] {
	case "echo":
		_, err = io.WriteString(s.Stdout, strings.Join(command[1:], " ")+"\n")
	case "cat":
		if s.Stdin != nil {
			_, err = io.Copy(s.Stdout, s.Stdin)
		}
	}
	return code, err
}
