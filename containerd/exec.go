//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Exec runs a further process in a container until the process or ctx ends, and returns its exit
// code. For its errors, see exec.Runner.Run.
func (r *Runtime) Exec(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) (int, error) {
	if err := validID(start.GetTaskId()); err != nil {
		return 0, err
	}
	code, err := r.execs.Run(namespaced(ctx), start, streams)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", start.GetTaskId(), engine.Away(err))
	}
	return code, nil
}

// Dial connects to a TCP port in the network namespace of a container. For its errors, see
// engine.Executor.
func (r *Runtime) Dial(ctx context.Context, taskID string, port uint16) (net.Conn, error) {
	if err := validID(taskID); err != nil {
		return nil, err
	}
	conn, err := r.execs.Dial(namespaced(ctx), taskID, port)
	if err != nil {
		return nil, fmt.Errorf("connect to container %s: %w", taskID, engine.Away(err))
	}
	return conn, nil
}

// EndExecs kills the processes that Exec has started in this node's containers, and returns how
// many there were. A daemon calls it when it starts, because the callers that would have read the
// output ended with the daemon before it.
func (r *Runtime) EndExecs(ctx context.Context) (int, error) {
	ctx = namespaced(ctx)
	owned, err := r.owned(ctx)
	if err != nil {
		return 0, fmt.Errorf("end execs: %w", err)
	}
	running, err := r.running(ctx)
	if err != nil {
		return 0, fmt.Errorf("end execs: %w", err)
	}
	ended := 0
	var errs []error
	for _, c := range owned {
		if _, runs := running[c.ID]; !runs {
			continue
		}
		n, err := r.execs.EndAll(ctx, c.ID)
		ended += n
		if err != nil {
			errs = append(errs, fmt.Errorf("end execs in container %s: %w", c.ID, err))
		}
	}
	return ended, errors.Join(errs...)
}
