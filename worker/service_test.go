package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"

	"swarm/internal/grpctest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/logs"
	"swarm/worker/simulated"
)

// client serves the rig's worker and connects to it.
func (r *rig) client() swarmv1.WorkerClient {
	server := grpc.NewServer()
	swarmv1.RegisterWorkerServer(server, r.w)
	return swarmv1.NewWorkerClient(grpctest.Serve(r.t, server))
}

func TestWorker_ExecStreamsBothWays(t *testing.T) {
	cfg := simulated.Config{Exec: func(_ context.Context, start *swarmv1.ExecStart, s engine.ExecStreams) int {
		size := <-s.Resize
		signal := <-s.Signals
		in, _ := io.ReadAll(s.Stdin)
		fmt.Fprintf(s.Stdout, "%s %s", start.Command, in)
		fmt.Fprintf(s.Stderr, "%dx%d %d", size.Width, size.Height, signal)
		return 7
	}}
	r := newRig(t, cfg, "m1")
	defer r.close()
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
	r.start()
	m.waitState("t1", running)
	stream, err := r.client().Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []*swarmv1.ExecInput{
		{Message: &swarmv1.ExecInput_Start{Start: &swarmv1.ExecStart{TaskId: "t1", Command: []string{"cmd"}, Stdin: true}}},
		{Message: &swarmv1.ExecInput_Resize{Resize: &swarmv1.Resize{Width: 80, Height: 25}}},
		{Message: &swarmv1.ExecInput_Signal{Signal: uint32(syscall.SIGINT)}},
		{Message: &swarmv1.ExecInput_Stdin{Stdin: []byte("in")}},
		{Message: &swarmv1.ExecInput_CloseStdin{CloseStdin: true}},
	} {
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch m := out.Message.(type) {
		case *swarmv1.ExecOutput_Started:
			got.WriteString("started;")
		case *swarmv1.ExecOutput_Stdout:
			fmt.Fprintf(&got, "out:%s;", m.Stdout)
		case *swarmv1.ExecOutput_Stderr:
			fmt.Fprintf(&got, "err:%s;", m.Stderr)
		case *swarmv1.ExecOutput_ExitCode:
			fmt.Fprintf(&got, "code:%d", m.ExitCode)
		}
	}
	if want := "started;out:[cmd] in;err:80x25 2;code:7"; got.String() != want {
		t.Errorf("exec said %q, want %q", got.String(), want)
	}
}

// A command that cannot be started ends with the code that shells use, and its output says why.
func TestWorker_ExecOfWhatCannotBeStarted(t *testing.T) {
	r := newRig(t, simulated.Config{}, "m1")
	defer r.close()
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
	r.start()
	m.waitState("t1", running)
	stream, err := r.client().Exec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Start{Start: &swarmv1.ExecStart{TaskId: "t1", Command: []string{"absent"}}}}); err != nil {
		t.Fatal(err)
	}
	said, err := stream.Recv()
	if err != nil || !strings.HasPrefix(string(said.GetStderr()), "Error: exec ") || !strings.HasSuffix(string(said.GetStderr()), "\n") {
		t.Errorf("first: %v, %v; want a line that says why", said, err)
	}
	if end, err := stream.Recv(); err != nil || end.GetExitCode() != 127 {
		t.Errorf("then: %v, %v; want exit code 127", end, err)
	}
}

func TestWorker_ExecEndsWithItsCaller(t *testing.T) {
	ended := make(chan error, 1)
	cfg := simulated.Config{Exec: func(ctx context.Context, _ *swarmv1.ExecStart, _ engine.ExecStreams) int {
		<-ctx.Done()
		ended <- ctx.Err()
		return 137
	}}
	r := newRig(t, cfg, "m1")
	defer r.close()
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
	r.start()
	m.waitState("t1", running)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := r.client().Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Start{Start: &swarmv1.ExecStart{TaskId: "t1", Command: []string{"x"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the process saw %v", err)
	}
}

func TestWorker_ImagesAreServed(t *testing.T) {
	r := newRig(t, simulated.Config{}, "m1")
	defer r.close()
	r.start()
	c := r.client()
	stream, err := c.PullImage(t.Context(), &swarmv1.PullImageRequest{Reference: "docker.io/library/a:1@sha256:7"})
	if err != nil {
		t.Fatal(err)
	}
	var last *swarmv1.ImageProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = p
	}
	if last.GetImage().GetDigest() != "sha256:7" {
		t.Errorf("last message: got %v, want an image with digest sha256:7", last)
	}
	if _, err := c.RemoveImage(t.Context(), &swarmv1.RemoveImageRequest{Digest: "sha256:7"}); err != nil {
		t.Error(err)
	}
	if r.images.Holds("sha256:7") {
		t.Error("the image is still held")
	}
}

func TestWorker_LogsOutliveTheirTask(t *testing.T) {
	r := newRig(t, simulated.Config{}, "m1")
	defer r.close()
	r.edit = func(c *worker.Config, d *worker.Deps) {
		store, err := logs.New(logs.Config{Dir: filepath.Join(c.StateDir, "logs"), NodeID: "n1"}, logs.Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		d.Logs = store
	}
	m := r.managers["m1"]
	m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
	r.start()
	m.waitState("t1", running)
	c, _ := r.runtime.Container("t1")
	if err := os.WriteFile(filepath.Join(c.LogDir, engine.StdoutFile), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.assign(puts(taskObject("t1", shutdown))...)
	m.waitState("t1", shutdown)
	m.assign(removal(swarmv1.AssignmentRef_TASK, "t1"))
	stream, err := r.client().Logs(t.Context(), &swarmv1.TaskLogsRequest{
		TaskIds: []string{"t1", "unknown"}, Options: &swarmv1.LogOptions{Tail: -1, Follow: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range resp.Records {
			got = append(got, rec.NodeId+" "+string(rec.Data))
		}
	}
	if len(got) != 1 || got[0] != "n1 hello" {
		t.Errorf("logs: got %q, want n1 hello", got)
	}
}
