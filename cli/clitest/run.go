package clitest

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"swarm/cli"
	"swarm/cli/command"
	"swarm/cli/daemon"
	"swarm/cli/dev"
	"swarm/cli/system"
	swarmv1 "swarm/proto/swarm/v1"
)

// Refused checks that a command line failed with exit code 1 (125 for an unknown flag or a wrong
// value of a flag), printed nothing to standard output, and printed one line that contains want to
// standard error.
func Refused(t *testing.T, line string, got Result, want string) {
	t.Helper()
	code := 1
	if badFlag.MatchString(got.ErrOut) && got.Code != code {
		code = 125 // as in Docker; TestFlagErrors_ExitCode
	}
	RefusedWith(t, code, line, got, want)
}

// badFlag matches the errors about an unknown flag or about the value of a flag.
var badFlag = regexp.MustCompile(`^Error: (unknown (shorthand )?flag|flag needs an argument|invalid argument "[^\n]*" for "|--[a-z-]+: )`)

// RefusedWith is Refused for one exit code.
func RefusedWith(t *testing.T, code int, line string, got Result, want string) {
	t.Helper()
	if got.Code != code || got.Out != "" || !strings.HasPrefix(got.ErrOut, "Error: ") || !strings.Contains(got.ErrOut, want) || strings.Count(got.ErrOut, "\n") != 1 {
		t.Errorf("%s: got %+v, want one line with %q", line, got, want)
	}
}

var update = flag.Bool("update", false, "write golden files")

// Golden compares got with a file of the folder testdata, or writes the file under -update.
func Golden(t *testing.T, path, got string) {
	t.Helper()
	path = filepath.Join("testdata", path)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// Run is one command line in a test, with its input, environment, clock and daemon. Zero values are
// an empty input and environment, the real clock, and no daemon.
type Run struct {
	Stdin     io.Reader
	Env       map[string]string
	Server    *Server // nil: no daemon answers
	Dev       dev.Maker
	Now       time.Time
	Daemon    func(context.Context, daemon.Options) error
	Start     func(context.Context, command.StartRequest) (*command.StartedDaemon, error)
	Installer daemon.Installer
	Doctor    func(context.Context, system.DoctorRequest) ([]system.Finding, error)
	Target    *command.Target // set to the daemon that was dialed
	Tty       bool            // output goes to a terminal
}

// screen is a terminal that records what is written to it.
type screen struct{ bytes.Buffer }

func (*screen) Size() (width, height int, err error) { return 200, 50, nil }

func (*screen) Raw() (func(), error) { return func() {}, nil }

func (*screen) Resized(context.Context) <-chan struct{} {
	return nil
}

// Result is the exit code and the output of a command line.
type Result struct {
	Code        int
	Out, ErrOut string
}

// Run runs the program with args.
func (r Run) Run(t *testing.T, args ...string) Result {
	t.Helper()
	return r.RunContext(t.Context(), t, args...)
}

// RunContext is Run under a context of the caller.
func (r Run) RunContext(ctx context.Context, t *testing.T, args ...string) Result {
	t.Helper()
	var out, errOut screen
	stdout, stderr := io.Writer(&out.Buffer), io.Writer(&errOut.Buffer)
	if r.Tty {
		stdout, stderr = &out, &errOut
	}
	if r.Stdin == nil {
		r.Stdin = bytes.NewReader(nil)
	}
	deps := cli.Deps{
		In: r.Stdin, Out: stdout, Err: stderr,
		Env:     func(k string) string { return r.Env[k] },
		Now:     time.Now,
		Version: &swarmv1.VersionInfo{Version: "v1.2.3", GoVersion: "go1.26", Os: "linux", Arch: "amd64"},
		Dial: func(_ context.Context, target command.Target) (command.Conn, error) {
			if r.Target != nil {
				*r.Target = target
			}
			return r.Server.dial(t, target)
		},
		RunDaemon:   r.Daemon,
		StartDaemon: r.Start,
		Installer:   r.Installer,
		Diagnose:    r.Doctor,
		Dev:         r.Dev,
	}
	if !r.Now.IsZero() {
		deps.Now = func() time.Time { return r.Now }
	}
	code := cli.Main(ctx, deps, args)
	return Result{Code: code, Out: out.String(), ErrOut: errOut.String()}
}

// dial connects to the server through memory. Without a server the connection fails as if the
// daemon's socket did not exist.
func (s *Server) dial(t *testing.T, target command.Target) (command.Conn, error) {
	t.Helper()
	if s == nil {
		return grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				return net.Dial(target.Network, filepath.Join(t.TempDir(), "absent.sock"))
			}))
	}
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	swarmv1.RegisterControlServer(g, s)
	swarmv1.RegisterDaemonServer(g, daemonServer{fake: s})
	swarmv1.RegisterCAServer(g, caServer{fake: s})
	swarmv1.RegisterDisksServer(g, disksServer{fake: s})
	swarmv1.RegisterVolumesServer(g, volumesServer{fake: s})
	swarmv1.RegisterStatsServer(g, statsServer{fake: s})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		return nil, err
	}
	return &fakeConn{ClientConn: conn, stop: func() { g.Stop(); <-served }}, nil
}

type fakeConn struct {
	*grpc.ClientConn
	stop func()
}

func (c *fakeConn) Close() error {
	err := c.ClientConn.Close()
	c.stop()
	return err
}

// StartSignals starts the goroutine of the Go runtime that handles signals. It never ends, so it
// must start outside of a synctest bubble: call StartSignals before a bubble that runs the command
// line.
func StartSignals(t *testing.T) {
	t.Helper()
	Run{Server: &Server{}}.Run(t, "node", "ls")
}
