package task

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// forwardInterval is how often the verb asks whether the task or service still exists.
	forwardInterval = 5 * time.Second
	// forwardBuffer is how many bytes of a connection one message carries at most.
	forwardBuffer = 32 << 10
)

// A forwarding is one local address whose connections go to one port of a task.
type forwarding struct {
	local  string // host and port; with the port 0, the system chooses one
	remote uint16
}

// NewForward returns the verb `swarm port-forward`.
func NewForward(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use:   "port-forward [OPTIONS] TASK|SERVICE[.SLOT] [ADDRESS:][LOCAL:]REMOTE...",
		Short: "Forward local TCP ports to ports of a running task, on whatever node it is",
		Args:  usage.MinArgs(2), ValidArgsFunction: completeExec(deps),
		RunE: func(c *cobra.Command, args []string) error {
			forwards, err := parseForwards(args[1:])
			if err != nil {
				return err
			}
			return runForward(c.Context(), deps, args[0], forwards)
		},
	})
}

// parseForwards parses [ADDRESS:][LOCAL:]REMOTE. ADDRESS is 127.0.0.1 and LOCAL is REMOTE if they
// are left out; LOCAL may be 0 or empty, for a port that the system chooses.
func parseForwards(args []string) ([]forwarding, error) {
	var out []forwarding
	seen := map[string]string{}
	for _, arg := range args {
		f, err := parseForward(arg)
		if err != nil {
			return nil, err
		}
		if first, ok := seen[f.local]; ok && !strings.HasSuffix(f.local, ":0") {
			return nil, usage.Invalidf("%s and %s both listen on %s: give each a different local port", first, arg, f.local)
		}
		seen[f.local] = arg
		out = append(out, f)
	}
	return out, nil
}

func parseForward(arg string) (forwarding, error) {
	host, ports := "127.0.0.1", arg
	if end := strings.LastIndexByte(arg, ']'); end > 0 && arg[0] == '[' {
		host, ports = arg[1:end], strings.TrimPrefix(arg[end+1:], ":")
	} else if before, after, ok := strings.Cut(arg, ":"); ok && (strings.Contains(after, ":") || strings.Contains(before, ".") || before == "localhost") {
		host, ports = before, after
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if net.ParseIP(host) == nil {
		return forwarding{}, usage.Invalidf("%s: %q is not an IP address: use [ADDRESS:][LOCAL:]REMOTE, and brackets around an IPv6 address", arg, host)
	}
	local, remote, ok := strings.Cut(ports, ":")
	if !ok {
		local, remote = ports, ports
	}
	if local == "" {
		local = "0"
	}
	from, err := strconv.ParseUint(local, 10, 16)
	if err != nil {
		return forwarding{}, usage.Invalidf("%s: the local port %q is not a number from 0 to 65535: use [ADDRESS:][LOCAL:]REMOTE", arg, local)
	}
	to, err := strconv.ParseUint(remote, 10, 16)
	if err != nil || to == 0 {
		return forwarding{}, usage.Invalidf("%s: the port of the task %q is not a number from 1 to 65535: use [ADDRESS:][LOCAL:]REMOTE", arg, remote)
	}
	return forwarding{net.JoinHostPort(host, strconv.FormatUint(from, 10)), uint16(to)}, nil
}

// runForward forwards connections until ctx ends, or the task or service is gone. It listens only
// after a manager has said that a task runs.
func runForward(ctx context.Context, deps *command.Deps, ref string, forwards []forwarding) error {
	return deps.Connect(ctx, func(c command.Client) error {
		if err := checkForward(ctx, c, ref); err != nil {
			return err
		}
		t, err := c.GetTask(ctx, &swarmv1.GetRequest{Id: ref})
		oneTask := err == nil && strings.HasPrefix(t.GetTask().GetId(), ref)
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		listeners, err := listenAll(ctx, deps, forwards)
		if err != nil {
			return err
		}
		for i, l := range listeners {
			context.AfterFunc(ctx, func() { _ = l.Close() })
			running.Go(func() { accept(ctx, deps, c, l, ref, forwards[i].remote, &running) })
		}
		return watchForward(ctx, c, ref, oneTask)
	})
}

// checkForward returns an error if no task of ref runs.
func checkForward(ctx context.Context, c command.Client, ref string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := openForward(ctx, c, ref, 0)
	return err
}

// watchForward returns when ref is gone. A service or slot without a running task is not gone: its
// next task gets the next connections. A task that has ended is. Other errors may be transient.
func watchForward(ctx context.Context, c command.Client, ref string, oneTask bool) error {
	tick := time.NewTicker(forwardInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		asked, cancel := context.WithTimeout(ctx, forwardInterval)
		err := checkForward(asked, c, ref)
		cancel()
		if command.IsNotFound(err) || oneTask && command.IsFailedPrecondition(err) {
			return err
		}
	}
}

// listenAll listens on all local addresses or on none, and prints them.
func listenAll(ctx context.Context, deps *command.Deps, forwards []forwarding) (_ []net.Listener, err error) {
	var out []net.Listener
	defer func() {
		for _, l := range out {
			if err != nil {
				_ = l.Close()
			}
		}
	}()
	var config net.ListenConfig
	for _, f := range forwards {
		l, err := config.Listen(ctx, "tcp", f.local)
		if err != nil {
			return out, errdefs.ErrFailedPrecondition.WithMessage("cannot listen on " + f.local + ": " + reason(err) + ": choose another local port or address")
		}
		out = append(out, l)
	}
	for i, l := range out {
		if err := term.Printf(deps.Out, "%s -> %d\n", l.Addr(), forwards[i].remote); err != nil {
			return out, err
		}
	}
	return out, nil
}

// reason returns the innermost text of an error of the network.
func reason(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// accept forwards the connections of a listener until the listener is closed.
func accept(ctx context.Context, deps *command.Deps, c command.Client, l net.Listener, ref string, port uint16, running *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			_ = term.Printf(deps.Err, "%s: %v\n", l.Addr(), err)
			select { // for example while the process has too many open files
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		running.Go(func() {
			if err := forward(ctx, c, conn, ref, port); err != nil && ctx.Err() == nil {
				_ = term.Printf(deps.Err, "connection from %s: %s\n", conn.RemoteAddr(), term.ErrorLine(err))
			}
		})
	}
}

// openForward opens the stream of one connection and waits until the task has accepted it.
func openForward(ctx context.Context, c command.Client, ref string, port uint16) (swarmv1.Control_PortForwardClient, error) {
	stream, err := c.PortForward(ctx)
	if err != nil {
		return nil, err
	}
	start := &swarmv1.ForwardStart{TaskId: ref, Port: uint32(port)}
	if err := stream.Send(&swarmv1.ForwardInput{Message: &swarmv1.ForwardInput_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = stream.Recv()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return stream, err
}

// forward carries one connection until both sides have closed it for writing, or one has failed.
func forward(ctx context.Context, c command.Client, conn net.Conn, ref string, port uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	sent := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends Read and Write
	defer stop()
	defer conn.Close()
	defer cancel()
	stream, err := openForward(ctx, c, ref, port)
	if err != nil {
		return err
	}
	go func() {
		defer close(sent)
		if !sendForward(conn, stream) {
			cancel()
		}
	}()
	err = receiveForward(conn, stream)
	cancel()
	<-sent
	return err
}

// sendForward sends what it reads from the connection. It reports whether the connection ended with
// a close for writing, after which the task may still answer.
func sendForward(conn net.Conn, stream swarmv1.Control_PortForwardClient) bool {
	for {
		buf := make([]byte, forwardBuffer) // gRPC may use the data after Send has returned.
		n, err := conn.Read(buf)
		if n > 0 && stream.Send(&swarmv1.ForwardInput{Message: &swarmv1.ForwardInput_Data{Data: buf[:n]}}) != nil {
			return true // The receiver gets the reason.
		}
		if errors.Is(err, io.EOF) {
			return stream.CloseSend() == nil
		}
		if err != nil {
			return false
		}
	}
}

// receiveForward writes the task's data to the connection until the stream ends. It returns nil if
// the local side has gone, because its user knows.
func receiveForward(conn net.Conn, stream swarmv1.Control_PortForwardClient) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || command.IsCanceled(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetEnd() {
			if c, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite() // An error means that the local side has gone; the sender sees it.
			}
		} else if _, err := conn.Write(m.GetData()); err != nil {
			return nil
		}
	}
}
