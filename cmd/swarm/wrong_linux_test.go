package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"swarm/cli"
	"swarm/cli/command"
	"swarm/cli/daemon"
	"swarm/cli/dev"
	"swarm/cli/system"
	"swarm/internal/transport"
	"swarm/manager"
	"swarm/manager/ca"
	"swarm/manager/dispatch/liveness"
	"swarm/node"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

const wrongFile = "testdata/wrong.txt"

// wrongLine is a wrong command line with its exit code and output.
type wrongLine struct {
	comment []string // lines above it
	line    string
	exit    string
	stderr  string
}

// TestWrongInput runs wrong command lines with the real command line client and a real manager.
// Each must be refused with the exit code and the exact output in testdata/wrong.txt.
func TestWrongInput(t *testing.T) {
	table := readWrong(t)
	rig := newWrongRig(t)
	var out strings.Builder
	for _, want := range table {
		got := rig.run(want.line)
		got.comment, got.line = want.comment, want.line
		if diff := cmp.Diff(want.text(), got.text()); diff != "" && !*update {
			t.Errorf("(-want +got; -update writes what is said now)\n%s", diff)
		}
		for _, problem := range problemsOf(got) {
			t.Errorf("swarm %s: %s:\n%s", got.line, problem, got.stderr)
		}
		out.WriteString(got.text() + "\n")
	}
	if *update {
		if err := os.WriteFile(wrongFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(table) < 300 {
		t.Errorf("the table has %d lines, want 300", len(table))
	}
}

func (w wrongLine) text() string {
	return strings.Join(append(slices.Clone(w.comment), "$ swarm "+w.line, "exit "+w.exit, w.stderr), "\n")
}

// readWrong reads the table, in which an empty line ends each entry.
func readWrong(t *testing.T) (out []wrongLine) {
	t.Helper()
	text, err := os.ReadFile(wrongFile)
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		var w wrongLine
		for line := range strings.Lines(entry) {
			switch {
			case w.line == "" && strings.HasPrefix(line, "#"):
				w.comment = append(w.comment, strings.TrimSuffix(line, "\n"))
			case w.line == "":
				w.line = strings.TrimPrefix(strings.TrimSpace(line), "$ swarm ")
			case w.exit == "":
				w.exit = strings.TrimPrefix(strings.TrimSpace(line), "exit ")
			default:
				w.stderr += line
			}
		}
		w.stderr = strings.TrimSuffix(w.stderr, "\n") + "\n"
		out = append(out, w)
	}
	return out
}

// odd matches text that no user should have to read: words of libraries, of Go, or of the wire
// protocol.
var odd = regexp.MustCompile(`strconv|rpc error|%!|\*[a-z]+\.[A-Za-z]|in type |map has|map\[|interface \{|panic:|<nil>|desc =|code =|0x[0-9a-f]{6}`)

// problemsOf returns the problems of an error output that do not depend on its exact words.
func problemsOf(w wrongLine) (out []string) {
	lines := strings.Split(strings.TrimSuffix(w.stderr, "\n"), "\n")
	last := lines[len(lines)-1]
	if w.exit == "0" {
		out = append(out, "it is accepted")
	}
	if !strings.HasPrefix(last, "Error: ") {
		out = append(out, "it does not end with an error")
	}
	if m := odd.FindString(w.stderr); m != "" {
		out = append(out, fmt.Sprintf("it says %q", m))
	}
	seen := map[string]bool{}
	for clause := range strings.SplitSeq(last, ": ") {
		if seen[clause] {
			out = append(out, fmt.Sprintf("it says %q twice", clause))
		}
		seen[clause] = true
	}
	for _, class := range []string{": not found", ": invalid argument", ": already exists", ": failed precondition", ": unavailable", ": not implemented"} {
		if strings.HasSuffix(last, class) {
			out = append(out, fmt.Sprintf("it ends with %q", class))
		}
	}
	return out
}

// wrongRig runs command lines on a host whose manager leads a cluster of two nodes, and on a host
// that is part of no cluster.
type wrongRig struct {
	t              *testing.T
	member, absent string // sockets of the two daemons
	home           string
	token          string // the join token
}

func newWrongRig(t *testing.T) *wrongRig {
	t.Helper()
	dir, err := os.MkdirTemp("", "wrong") // The path of t.TempDir is too long for a socket.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &wrongRig{t: t, member: filepath.Join(dir, "member.sock"), home: filepath.Join(dir, "home")}
	if err := os.Mkdir(r.home, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"empty": "", "bad.env": "a b=c\n", "notar": "not a tar"} {
		if err := os.WriteFile(filepath.Join(r.home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.manage()
	r.stayOut(filepath.Join(dir, "absent"))
	for _, line := range []string{
		"network create app",
		"network create --subnet 10.77.0.0/24 pinned",
		"service create -d --name web --replicas 2 -p 8080:80 --network app -e A=1 -l a=1 nginx:1",
		"service create -d --name glob --mode global nginx:1",
		"service create -d --name job --mode replicated-job nginx:1",
	} {
		if got := r.run(line); got.exit != "0" {
			t.Fatalf("swarm %s: %s", line, got.stderr)
		}
	}
	cluster, err := swarmv1.NewControlClient(r.dial()).GetCluster(t.Context(), &swarmv1.GetRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r.token = cluster.GetRootCa().GetJoinTokens().GetWorker()
	return r
}

// dial connects to the manager.
func (r *wrongRig) dial() *grpc.ClientConn {
	conn, err := transport.DialUnix(r.member)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// nowhere is an empty registry and gossip, and a cluster whose other nodes do not answer.
type nowhere struct{}

func (nowhere) Resolve(_ context.Context, ref, _ string) (string, error) {
	if strings.Contains(ref, "nosuch") {
		return "", errdefs.ErrNotFound.WithMessage("the registry has no such image")
	}
	return "sha256:" + strings.Repeat("1", 64), nil
}
func (nowhere) Status(string) liveness.GossipStatus          { return liveness.GossipAlive }
func (nowhere) Changed() (members, verdicts <-chan struct{}) { return nil, nil }

// manage serves a manager with a store of its own at the member's socket.
func (r *wrongRig) manage() {
	r.t.Helper()
	store, self := raftstoretest.New(r.t), "m1" // the id of the store's member
	_, csr := (&protocolRig{t: r.t}).key()
	found, err := ca.NewCluster(ca.BootstrapConfig{CSR: csr, Addr: "10.0.0.1", Port: 2377, Format: table.Format}, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	manages := found.Node
	manages.Id, manages.MachineId, manages.Hostname = self, self, "node1"
	works := &swarmv1.Node{Id: "worker0000000000000000002", MachineId: "2", Hostname: "node2", Addr: "10.0.0.2", Port: 2377, Spec: &swarmv1.NodeSpec{Labels: map[string]string{"zone": "a"}}}
	if _, err := store.Commit(r.t.Context(), "init", table.Create(found.Cluster), table.Create(manages), table.Create(works),
		table.Create(&swarmv1.NodeState{NodeId: self, State: swarmv1.NodeState_READY}), table.Create(&swarmv1.NodeState{NodeId: works.Id, State: swarmv1.NodeState_UNKNOWN})); err != nil {
		r.t.Fatal(err)
	}
	m := manager.New(manager.Config{NodeID: self}, manager.Deps{
		Log: slog.New(slog.DiscardHandler), Store: store, Gossip: nowhere{}, Resolver: nowhere{},
		Conn: func(string) (grpc.ClientConnInterface, error) { return nil, errors.New("no way there") },
	})
	server := grpc.NewServer(append(transport.ServerOptions(),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := m.Authorise(ctx, info.FullMethod); err != nil && !strings.Contains(info.FullMethod, "Daemon") {
				return nil, err
			}
			return next(ctx, req)
		}))...)
	m.Register(server)
	swarmv1.RegisterDaemonServer(server, memberDaemon{})
	ln, err := transport.ListenUnix(r.member, "")
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- m.Run(ctx) }()
	go func() { done <- server.Serve(ln) }()
	r.t.Cleanup(func() {
		server.Stop()
		cancel()
		for range cap(done) {
			if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
				r.t.Error(err)
			}
		}
	})
	if _, err := store.WaitIndex(r.t.Context(), 1); err != nil {
		r.t.Fatal(err)
	}
}

// memberDaemon is a daemon that reports that it is a member.
type memberDaemon struct {
	swarmv1.UnimplementedDaemonServer
}

func (memberDaemon) Info(context.Context, *swarmv1.InfoRequest) (*swarmv1.InfoResponse, error) {
	return &swarmv1.InfoResponse{NodeId: "m1", LocalNodeState: "active", ControlAvailable: true}, nil
}

// stayOut runs the daemon of a host that is part of no cluster.
func (r *wrongRig) stayOut(dir string) {
	config := node.Config{StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), Hostname: "host"}
	r.absent = config.Socket()
	n := node.New(config, node.Deps{
		Log: slog.New(slog.DiscardHandler), Clean: func(context.Context) error { return nil }, Describe: func() *swarmv1.NodeDescription { return nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// deps returns the real dependencies of the client, except for the connections to daemons.
func (r *wrongRig) deps(out, errOut *bytes.Buffer, socket string) cli.Deps {
	env := map[string]string{"HOME": r.home}
	return cli.Deps{
		In: strings.NewReader("not a tar"), Out: out, Err: errOut, Env: func(name string) string { return env[name] }, Now: time.Now, Version: versionInfo(),
		Dial: func(ctx context.Context, target command.Target) (command.Conn, error) {
			if target.String() == command.DefaultHost {
				target.Address = socket
			}
			return dial(ctx, target)
		},
		RunDaemon:  func(context.Context, daemon.Options) error { return nil },
		RunRuntime: func(context.Context, daemon.RuntimeOptions) error { return nil },
		Diagnose:   func(context.Context, system.DoctorRequest) ([]system.Finding, error) { return nil, nil },
		Installer:  installs(), Upgrade: noUpgrade{}, Dev: noDev{playgrounds()},
	}
}

// noUpgrade and noDev keep a wrong command line from changing the machine if it is accepted.
type noUpgrade struct{ daemon.Upgrader }

func (noUpgrade) Stage(ctx context.Context, path, _ string) (daemon.Program, func() error, error) {
	if _, err := os.Stat(path); err != nil {
		return daemon.Program{}, nil, err
	}
	return daemon.Program{}, func() error { return nil }, nil
}

type noDev struct{ dev.Maker }

func (noDev) Up(context.Context, dev.Options, func(string)) error { return nil }
func (noDev) Down(context.Context, string) error                  { return nil }

// idInText matches an id, which differs at every run.
var idInText = regexp.MustCompile(`\b[0-9a-z]{25}\b`)

// newest matches the index of the cluster's state, which differs at every run.
var newest = regexp.MustCompile(`(the newest that this manager knows is) \d+`)

// run runs one command line. $HOME in it is the user's folder, and $TOKEN a join token.
func (r *wrongRig) run(line string) wrongLine {
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	socket := r.member
	words := splitLine(strings.NewReplacer("$HOME", r.home, "$TOKEN", r.token).Replace(line))
	if len(words) > 0 && slices.Contains([]string{"init", "join", "leave"}, words[0]) {
		socket = r.absent
	}
	var out, errOut bytes.Buffer
	code := cli.Main(ctx, r.deps(&out, &errOut, socket), words)
	text := idInText.ReplaceAllString(strings.ReplaceAll(errOut.String(), r.home, "$HOME"), "ID")
	text = newest.ReplaceAllString(text, "$1 N")
	return wrongLine{line: line, exit: fmt.Sprint(code), stderr: text}
}

// splitLine splits at blanks outside of single quotes.
func splitLine(line string) (words []string) {
	var word strings.Builder
	quoted, begun := false, false
	for _, c := range line {
		switch {
		case c == '\'':
			quoted, begun = !quoted, true
		case c == ' ' && !quoted:
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words
}
