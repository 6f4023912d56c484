package cli_test

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
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

var update = flag.Bool("update", false, "write golden files")

// golden compares with a file in testdata.
func golden(t *testing.T, path, got string) {
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

// run is one command line in a test.
type run struct {
	stdin     io.Reader
	env       map[string]string
	server    *fakeServer // nil: nothing answers
	dev       dev.Maker
	now       time.Time
	daemon    func(context.Context, daemon.Options) error
	start     func(context.Context, command.StartRequest) (*command.StartedDaemon, error)
	installer daemon.Installer
	doctor    func(context.Context, system.DoctorRequest) ([]system.Finding, error)
	target    *command.Target // set to what was dialed
	tty       bool            // output goes to a terminal
}

// screen is a terminal that remembers what it was told.
type screen struct{ bytes.Buffer }

func (*screen) Size() (width, height int, err error) { return 200, 50, nil }

func (*screen) Raw() (func(), error) { return func() {}, nil }

func (*screen) Resized(context.Context) <-chan struct{} {
	return nil
}

// result is what a command line left behind.
type result struct {
	code        int
	out, errOut string
}

func (r run) run(t *testing.T, args ...string) result {
	t.Helper()
	return r.runContext(t.Context(), t, args...)
}

func (r run) runContext(ctx context.Context, t *testing.T, args ...string) result {
	t.Helper()
	var out, errOut screen
	stdout, stderr := io.Writer(&out.Buffer), io.Writer(&errOut.Buffer)
	if r.tty {
		stdout, stderr = &out, &errOut
	}
	if r.stdin == nil {
		r.stdin = bytes.NewReader(nil)
	}
	deps := cli.Deps{
		In: r.stdin, Out: stdout, Err: stderr,
		Env:     func(k string) string { return r.env[k] },
		Now:     time.Now,
		Version: &swarmv1.VersionInfo{Version: "v1.2.3", GoVersion: "go1.26", Os: "linux", Arch: "amd64"},
		Dial: func(_ context.Context, target command.Target) (command.Conn, error) {
			if r.target != nil {
				*r.target = target
			}
			return r.server.dial(t, target)
		},
		RunDaemon:   r.daemon,
		StartDaemon: r.start,
		Installer:   r.installer,
		Diagnose:    r.doctor,
		Dev:         r.dev,
	}
	if !r.now.IsZero() {
		deps.Now = func() time.Time { return r.now }
	}
	code := cli.Main(ctx, deps, args)
	return result{code: code, out: out.String(), errOut: errOut.String()}
}

// dial connects to the server through memory; without one as through a socket that nobody made.
func (s *fakeServer) dial(t *testing.T, target command.Target) (command.Conn, error) {
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
