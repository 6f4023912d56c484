package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Logs implements swarmv1.WorkerServer: the records of several tasks, in order within each task.
func (w *Worker) Logs(req *swarmv1.TaskLogsRequest, stream grpc.ServerStreamingServer[swarmv1.TaskLogsResponse]) error {
	if w.deps.Logs == nil {
		return fmt.Errorf("logs: this node keeps no output of its containers: %w", errdefs.ErrNotImplemented)
	}
	for _, id := range req.GetTaskIds() {
		if err := ident.CheckKey("task", id); err != nil {
			return err
		}
	}
	var mu sync.Mutex // guards stream.Send
	g, ctx := errgroup.WithContext(stream.Context())
	for _, id := range req.TaskIds {
		g.Go(func() error {
			err := w.deps.Logs.Read(ctx, id, req.Options, func(m *swarmv1.TaskLogsResponse) error {
				mu.Lock()
				defer mu.Unlock()
				return stream.Send(m)
			})
			if errdefs.IsNotFound(err) && len(req.TaskIds) > 1 { // the task never started here, or its log was removed
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// Exec implements swarmv1.WorkerServer: one process in a task's container.
func (w *Worker) Exec(stream grpc.BidiStreamingServer[swarmv1.ExecInput, swarmv1.ExecOutput]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || len(start.Command) == 0 {
		return fmt.Errorf("exec: the first message must name a task and a command: %w", errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckKey("task", start.GetTaskId()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	e := &execStream{stream: stream}
	stdin, feed := io.Pipe()
	resize, signals := make(chan *swarmv1.Resize), make(chan syscall.Signal)
	streams := engine.ExecStreams{
		Stdout: execWriter{e, false}, Stderr: execWriter{e, true}, Resize: resize, Signals: signals,
		Started: func() { e.send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Started{Started: true}}) },
	}
	if start.Stdin {
		streams.Stdin = stdin
	}
	// This goroutine ends when the stream does, which is after this function has returned, so
	// nothing can wait for it here. It uses only its stream, pipe and channels.
	go func() {
		err := e.receive(ctx, feed, resize, signals, cancel)
		_ = feed.CloseWithError(err)
	}()
	code, err := w.deps.Executor.Exec(ctx, start, streams)
	_ = stdin.Close() // the process has ended and reads no more input
	var refused *engine.CommandError
	if errors.As(err, &refused) {
		if err := e.send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stderr{Stderr: []byte("Error: " + refused.Text + "\n")}}); err != nil {
			return err
		}
		code, err = refused.Code(), nil
	}
	if err != nil {
		return fmt.Errorf("exec in task %s: %w", start.TaskId, err)
	}
	return e.send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: int32(code)}})
}

// execStream is the stream of an exec. Several goroutines may send on it.
type execStream struct {
	stream grpc.BidiStreamingServer[swarmv1.ExecInput, swarmv1.ExecOutput]
	mu     sync.Mutex // guards Send
}

func (e *execStream) send(m *swarmv1.ExecOutput) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stream.Send(m)
}

// receive passes the caller's input, sizes and signals to the process, until the input ends. If the
// stream fails, because the caller is gone, it calls cancel.
func (e *execStream) receive(ctx context.Context, stdin io.WriteCloser, resize chan<- *swarmv1.Resize, signals chan<- syscall.Signal, cancel context.CancelFunc) error {
	for {
		m, err := e.stream.Recv()
		if errors.Is(err, io.EOF) {
			return io.EOF // the caller sends no more input, but still receives
		}
		if err != nil {
			cancel()
			return err
		}
		switch m := m.Message.(type) {
		case *swarmv1.ExecInput_Stdin:
			_, _ = stdin.Write(m.Stdin) // an error means that the process has closed its input, which is allowed
		case *swarmv1.ExecInput_CloseStdin:
			_ = stdin.Close()
		case *swarmv1.ExecInput_Resize:
			select {
			case resize <- m.Resize:
			case <-ctx.Done():
				return ctx.Err()
			}
		case *swarmv1.ExecInput_Signal:
			select {
			case signals <- syscall.Signal(m.Signal):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// execWriter sends the output of a process.
type execWriter struct {
	e      *execStream
	stderr bool
}

func (x execWriter) Write(p []byte) (int, error) {
	data := append([]byte(nil), p...) // gRPC may still use the data when the caller reuses p
	m := &swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: data}}
	if x.stderr {
		m.Message = &swarmv1.ExecOutput_Stderr{Stderr: data}
	}
	if err := x.e.send(m); err != nil {
		return 0, err
	}
	return len(p), nil
}

// PullImage implements swarmv1.WorkerServer.
func (w *Worker) PullImage(req *swarmv1.PullImageRequest, stream grpc.ServerStreamingServer[swarmv1.ImageProgress]) error {
	progress := &progressStream{stream: stream}
	image, err := w.deps.Images.Pull(stream.Context(), engine.PullRequest{Ref: req.Reference, Auth: req.RegistryAuth}, progress.report)
	if err != nil {
		return fmt.Errorf("pull image %s: %w", req.Reference, err)
	}
	return progress.send(&swarmv1.ImageProgress{Step: "done", Image: image})
}

// PushImage implements swarmv1.WorkerServer.
func (w *Worker) PushImage(req *swarmv1.PushImageRequest, stream grpc.ServerStreamingServer[swarmv1.ImageProgress]) error {
	progress := &progressStream{stream: stream}
	if err := w.deps.Images.Push(stream.Context(), engine.PushRequest{Ref: req.Reference, Auth: req.RegistryAuth}, progress.report); err != nil {
		return fmt.Errorf("push image %s: %w", req.Reference, err)
	}
	return progress.send(&swarmv1.ImageProgress{Step: "done"})
}

// progressStream sends progress, also of layers that are transferred at the same time.
type progressStream struct {
	mu     sync.Mutex // guards stream
	stream grpc.ServerStreamingServer[swarmv1.ImageProgress]
}

func (t *progressStream) report(p *swarmv1.ImageProgress) {
	_ = t.send(p) // if the caller is gone, its context ends the work
}

func (t *progressStream) send(p *swarmv1.ImageProgress) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stream.Send(p)
}

// RemoveImage implements swarmv1.WorkerServer.
func (w *Worker) RemoveImage(ctx context.Context, req *swarmv1.RemoveImageRequest) (*swarmv1.RemoveImageResponse, error) {
	if err := w.deps.Images.Remove(ctx, req.Digest); err != nil {
		return nil, fmt.Errorf("remove image %s: %w", req.Digest, err)
	}
	return &swarmv1.RemoveImageResponse{}, nil
}
