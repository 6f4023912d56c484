//go:build linux

package exec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/thread"
)

// Dial connects to a TCP port in the network namespace of a task's container. It tries the loopback
// first, because a program may listen only there, and then the other addresses. ctx carries
// containerd's namespace. For its errors, see engine.Executor.
func (r *Runner) Dial(ctx context.Context, id string, port uint16) (net.Conn, error) {
	task, _, err := r.runningTask(ctx, id)
	if err != nil {
		return nil, err
	}
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", task.Pid()))
	if err != nil {
		return nil, fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	defer netns.Close()
	// If the container still runs, the process id was not given to another process before the
	// namespace was opened.
	if _, _, err := r.runningTask(ctx, id); err != nil {
		return nil, err
	}
	var conn net.Conn
	err = thread.Run(func() (err error) { // It returns when ctx ends, at the latest.
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		conn, err = dialHere(ctx, port)
		return err
	})
	return conn, err
}

// dialHere connects to a port in the network namespace of the calling thread.
func dialHere(ctx context.Context, port uint16) (net.Conn, error) {
	addrs := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			addrs = append(addrs, n.IP)
		}
	}
	var d net.Dialer // An IP address is dialled on the calling goroutine, and so on its thread.
	for _, a := range addrs {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("port %d does not answer: %w", port, errdefs.ErrFailedPrecondition)
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("nothing listens on port %d: %w", port, errdefs.ErrFailedPrecondition)
}
