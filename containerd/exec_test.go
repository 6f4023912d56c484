//go:build linux

package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// output is a buffer that may be read while it is written.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) await(t *testing.T, what string) {
	t.Helper()
	eventually.Nil(t, "output "+what, func() error {
		if got := o.String(); !strings.Contains(got, what) {
			return errors.New(got)
		}
		return nil
	})
}

// A daemon that was killed leaves its execs running. The next daemon ends them, and nothing else.
func TestRuntime_EndExecs(t *testing.T) {
	n := newNode(t)
	c := n.container("sleep 1000 & exec sleep 1000")
	n.run(c)
	var out output
	code := make(chan int, 1)
	go func() {
		got, err := n.runtime.Exec(context.WithoutCancel(t.Context()), &swarmv1.ExecStart{
			TaskId: c.Task.GetId(), Command: []string{"sh", "-c", "echo up; exec sleep 1000"},
		}, engine.ExecStreams{Stdout: &out})
		if err != nil {
			t.Error(err)
		}
		code <- got
	}()
	out.await(t, "up")
	ended, err := n.runtime.EndExecs(t.Context())
	if ended != 1 || err != nil {
		t.Errorf("ended %d, %v; want 1", ended, err)
	}
	if got := <-code; got != 137 {
		t.Errorf("exit code of the exec: got %d, want 137", got)
	}
	found, err := n.runtime.List(t.Context())
	if err != nil || len(found) != 1 || !found[0].Running {
		t.Errorf("containers: %v, %v", found, err)
	}
	if ended, err := n.runtime.EndExecs(t.Context()); ended != 0 || err != nil {
		t.Errorf("a second time: ended %d, %v; want 0", ended, err)
	}
}

// refusedWith runs a command that cannot be started, and returns the refusal, which must be one
// clause.
func refusedWith(code int) func(error) bool {
	return func(err error) bool {
		var refused *engine.CommandError
		return errors.As(err, &refused) && refused.Code() == code && !strings.Contains(refused.Text, "OCI runtime")
	}
}

func TestRuntime_Exec(t *testing.T) {
	n := newNode(t)
	c := n.container("exec sleep 1000", func(c *engine.Container) { c.Spec().Env = []string{"OWN=1"} })
	id := c.Task.GetId()
	n.run(c)
	for _, e := range []struct {
		name     string
		start    *swarmv1.ExecStart
		stdin    string
		out, err string
		code     int
		want     func(error) bool
	}{
		{name: "output", start: &swarmv1.ExecStart{Command: []string{"sh", "-c", "echo out; echo err >&2; exit 4"}}, out: "out\n", err: "err\n", code: 4},
		{name: "input", start: &swarmv1.ExecStart{Command: []string{"cat"}}, stdin: "line\n", out: "line\n"},
		{name: "environment, folder", start: &swarmv1.ExecStart{
			Command: []string{"sh", "-c", "echo $OWN $MORE $HOME; pwd"}, Env: []string{"MORE=2"}, Dir: "/tmp",
		}, out: "1 2 /root\n/tmp\n"},
		{name: "user", start: &swarmv1.ExecStart{Command: []string{"sh", "-c", "id -u; echo $HOME"}, User: "alice"}, out: "1000\n/home/alice\n"},
		{name: "terminal", start: &swarmv1.ExecStart{Command: []string{"sh", "-c", "stty size; echo $TERM"}, Tty: true, Width: 100, Height: 40}, out: "40 100\r\nxterm\r\n"},
		{name: "privileged", start: &swarmv1.ExecStart{Command: []string{"sh", "-c", "grep CapEff /proc/self/status | grep -c a80425fb"}, Privileged: true}, out: "0\n", code: 1},
		{name: "background child", start: &swarmv1.ExecStart{Command: []string{"sh", "-c", "sleep 0.5 & echo done"}}, out: "done\n"},
		{name: "no such program", start: &swarmv1.ExecStart{Command: []string{"/absent"}}, want: refusedWith(127)},
		{name: "no such program in PATH", start: &swarmv1.ExecStart{Command: []string{"absent"}}, want: refusedWith(127)},
		{name: "not executable", start: &swarmv1.ExecStart{Command: []string{"/etc/passwd"}}, want: refusedWith(126)},
		{name: "a folder", start: &swarmv1.ExecStart{Command: []string{"/etc"}}, want: refusedWith(126)},
		{name: "no command", start: &swarmv1.ExecStart{}, want: errdefs.IsInvalidArgument},
		{name: "no such user", start: &swarmv1.ExecStart{Command: []string{"true"}, User: "bob"}, want: errdefs.IsInvalidArgument},
	} {
		t.Run(e.name, func(t *testing.T) {
			e.start.TaskId = id
			var out, stderr output
			streams := engine.ExecStreams{Stdout: &out, Stderr: &stderr}
			if e.stdin != "" {
				streams.Stdin = strings.NewReader(e.stdin)
			}
			code, err := n.runtime.Exec(n.Ctx, e.start, streams)
			if e.want != nil {
				if !e.want(err) {
					t.Errorf("got %d, %v, want another error", code, err)
				}
				return
			}
			if err != nil || code != e.code || out.String() != e.out || stderr.String() != e.err {
				t.Errorf("got %d, %v, %q, %q; want %d, %q, %q", code, err, out.String(), stderr.String(), e.code, e.out, e.err)
			}
		})
	}
}

// An exec ends with its process, also when children hold its output open, and returns the output so
// far.
func TestRuntime_ExecDoesNotWaitForItsChildren(t *testing.T) {
	n := newNode(t)
	c := n.container("exec sleep 1000")
	n.run(c)
	for _, command := range []string{
		"sleep 1500 & echo started; exit 3", "setsid sleep 1500 & echo started; exit 3", "(while echo; do sleep 0.1; done) & echo started; exit 3",
	} {
		var out output
		began := time.Now()
		code, err := n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: c.Task.GetId(), Command: []string{"sh", "-c", command}}, engine.ExecStreams{Stdout: &out})
		if took := time.Since(began); err != nil || code != 3 || !strings.Contains(out.String(), "started\n") || took > 5*time.Second {
			t.Errorf("exec %q: %d, %v, %q after %v; want 3 and its output at once", command, code, err, out.String(), took)
		}
	}
}

// The end of ctx kills every process that an exec has started, if the caller asks for it, as for a
// health check that took too long.
func TestRuntime_ExecEndsWhole(t *testing.T) {
	n := newNode(t)
	c := n.container("sleep 1600 & exec sleep 1000")
	n.run(c)
	id := c.Task.GetId()
	for _, command := range []string{
		"sleep 1501 & echo up; sleep 1502",
		"setsid sleep 1501 & echo up; sleep 1502",
		"(sleep 1501 &) ; echo up; sleep 1502",
		"setsid sh -c 'sleep 1501 & sleep 1503' & echo up; sleep 1502",
		"trap '' HUP TERM INT; nohup sleep 1501 & echo up; sleep 1502 & wait",
	} {
		ctx, cancel := context.WithCancel(n.Ctx)
		began := make(chan time.Time, 1)
		out := &hook{text: "up", then: func() {
			began <- time.Now()
			cancel()
		}}
		_, err := n.runtime.Exec(ctx, &swarmv1.ExecStart{TaskId: id, Command: []string{"sh", "-c", command}}, engine.ExecStreams{Stdout: out, Whole: true})
		if took := time.Since(<-began); !errors.Is(err, context.Canceled) || took > 5*time.Second {
			t.Errorf("exec %q: %v after %v, want canceled at once", command, err, took)
		}
		cancel()
		eventually.Nil(t, "end of what came of "+command, func() error {
			var ps output
			_, err := n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: id, Command: []string{"ps", "-o", "args"}}, engine.ExecStreams{Stdout: &ps})
			if err == nil && strings.Contains(ps.String(), "sleep 150") {
				err = errors.New(ps.String())
			}
			if err == nil && (!strings.Contains(ps.String(), "sleep 1600") || !strings.Contains(ps.String(), "sleep 1000")) {
				t.Fatalf("processes of the container itself are gone: %s", ps.String())
			}
			return err
		})
	}
}

// hook calls then when text was written.
type hook struct {
	text string
	then func()
}

func (h *hook) Write(p []byte) (int, error) {
	if h.text != "" && strings.Contains(string(p), h.text) {
		h.text = ""
		h.then()
	}
	return len(p), nil
}

func TestRuntime_ExecIsInteractive(t *testing.T) {
	n := newNode(t)
	c := n.container("exec sleep 1000")
	n.run(c)
	in, type_ := io.Pipe()
	var out output
	resize := make(chan *swarmv1.Resize)
	signals := make(chan syscall.Signal)
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{
			TaskId: c.Task.GetId(), Command: []string{"sh", "-c", "trap 'exit 7' USR1; echo ready; while read l; do stty size; done"},
			Tty: true, Width: 10, Height: 20,
		}, engine.ExecStreams{Stdin: in, Stdout: &out, Resize: resize, Signals: signals})
		done <- result{code, err}
	}()
	out.await(t, "ready")
	resize <- &swarmv1.Resize{Width: 33, Height: 44}
	eventually.Nil(t, "resize", func() error {
		if _, err := io.WriteString(type_, "\n"); err != nil {
			return err
		}
		if !strings.Contains(out.String(), "44 33") {
			return errors.New(out.String())
		}
		return nil
	})
	signals <- syscall.SIGUSR1
	if _, err := io.WriteString(type_, "\n"); err != nil { // the shell looks at its trap after the read
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || got.code != 7 {
		t.Errorf("got %d, %v, want code 7", got.code, got.err)
	}
	_ = type_.Close()
}

func TestRuntime_ExecEndsWithItsContext(t *testing.T) {
	n := newNode(t)
	c := n.container("exec sleep 1000")
	n.run(c)
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	began := time.Now()
	_, err := n.runtime.Exec(ctx, &swarmv1.ExecStart{TaskId: c.Task.GetId(), Command: []string{"sleep", "1001"}},
		engine.ExecStreams{Started: cancel})
	if !errors.Is(err, context.Canceled) || time.Since(began) > patience/2 {
		t.Errorf("got %v after %v, want canceled at once", err, time.Since(began))
	}
	var out output
	if _, err := n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: c.Task.GetId(), Command: []string{"sh", "-c", "cat /proc/[0-9]*/cmdline"}}, engine.ExecStreams{Stdout: &out}); err != nil || strings.Contains(out.String(), "1001") {
		t.Errorf("processes left: %q, %v", out.String(), err)
	}
	if err := n.runtime.Stop(n.Ctx, c.Task.GetId(), "", 0); err != nil {
		t.Fatal(err)
	}
	_, err = n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: c.Task.GetId(), Command: []string{"true"}}, engine.ExecStreams{})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in what has ended: got %v, want failed precondition", err)
	}
	_, err = n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: "nobody", Command: []string{"true"}}, engine.ExecStreams{})
	if !errdefs.IsNotFound(err) {
		t.Errorf("exec in nobody: got %v, want not found", err)
	}
}
