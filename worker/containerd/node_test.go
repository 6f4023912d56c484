//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/containerd"
	"swarm/worker/containerd/binary"
	"swarm/worker/containerd/companion"
	"swarm/worker/containerd/layout"
	"swarm/worker/containerd/lock"
	"swarm/worker/containerd/reaper"
	"swarm/worker/containerd/runc"
	"swarm/worker/containerd/server"
	"swarm/worker/containerd/shim"
)

const (
	imageRef = "example.com/busybox:1"
	patience = 30 * time.Second
)

// TestMain makes the test binary what swarm is: shim, reaper, containerd.
func TestMain(m *testing.M) {
	switch {
	case shim.Invoked(os.Args):
		shim.Main()
	case reaper.Invoked(os.Args):
		os.Exit(reaper.Main(os.Args))
	case len(os.Args) > 1 && os.Args[1] == "runtime":
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		// Else every program that the tests start sleeps for a second before it ends, under the race detector.
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
		code := m.Run()
		_ = os.Remove(initPath())
		os.Exit(code)
	}
}

func serve(args []string) error {
	cfg, err := server.ParseArgs(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return server.Run(ctx, cfg)
}

// node is one node's containerd with the runtime under test as its client.
type node struct {
	t        testing.TB
	ctx      context.Context
	dir      string
	layout   layout.Layout
	programs binary.Set
	cgroup   string
	client   *client.Client
	runtime  *containerd.Runtime
	stop     func()     // of the companion, not of containerd
	mu       sync.Mutex // guards tasks, in benchmarks
	tasks    int
}

// newNode makes a test parallel: much of the time it waits for disks and processes.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	dir, err := os.MkdirTemp("/tmp", "swct") // short, for the sockets' sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := &node{
		t:      t,
		ctx:    namespaces.WithNamespace(context.Background(), layout.Namespace),
		dir:    dir,
		layout: layout.Layout{Data: filepath.Join(dir, "d"), Run: filepath.Join(dir, "r")},
		cgroup: "/swarm-ct-" + strings.TrimPrefix(filepath.Base(dir), "swct"),
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n.programs, err = binary.Install(n.layout.Bin(), "test", binary.Source{Program: self, Runc: runc.Embedded(), RuncPath: findRunc(t)})
	if err != nil {
		t.Fatal(err)
	}
	n.start()
	if n.client, err = containerd.Connect(n.layout.Socket()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.destroy)
	n.runtime = n.newRuntime()
	n.importImage()
	return n
}

// newRuntime is what a daemon makes when it starts.
func (n *node) newRuntime() *containerd.Runtime {
	n.t.Helper()
	r, err := containerd.New(n.config(), containerd.Deps{Log: n.log(), Client: n.client})
	if err != nil {
		n.t.Fatal(err)
	}
	return r
}

func (n *node) config() containerd.Config {
	return containerd.Config{
		StateDir:     filepath.Join(n.layout.Data, "worker"),
		RunDir:       filepath.Join(n.layout.Run, "worker"),
		RuncRoot:     n.layout.RuncRoot(),
		Runc:         n.programs.Runc,
		Build:        n.programs.Build,
		Exits:        layout.Exits(n.layout.State()),
		Init:         initProgram(n.t),
		CgroupParent: n.cgroup,
	}
}

func (n *node) log() *slog.Logger { return slog.New(slog.NewTextHandler(n.t.Output(), nil)) }

// start runs a companion and waits until containerd answers.
func (n *node) start() {
	n.t.Helper()
	c, err := companion.New(companion.Config{Layout: n.layout, Programs: n.programs}, companion.Deps{Log: n.log()})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			n.t.Error(err)
		}
	}()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	n.t.Cleanup(n.stop)
	ready, cancelReady := context.WithTimeout(n.ctx, patience)
	defer cancelReady()
	if err := c.Ready(ready); err != nil {
		n.t.Fatal(err)
	}
}

// killRuntime kills containerd and returns when it is gone; nobody starts it again.
func (n *node) killRuntime() {
	n.t.Helper()
	n.stop()
	pid, err := lock.Holder(layout.Lock(n.layout.Root()))
	if err != nil || pid == 0 {
		n.t.Fatalf("runtime process: %d, %v", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "end of the runtime process", func() error {
		if pid, err := lock.Holder(layout.Lock(n.layout.Root())); err != nil || pid != 0 {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		return nil
	})
}

// shims are the processes that run from the node's shim.
func (n *node) shims() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var pids []int
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == n.programs.Shim {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// destroy leaves no container, process, mount or cgroup behind.
func (n *node) destroy() {
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	var err error
	if serving, serr := n.client.IsServing(ctx); serr != nil || !serving {
		n.start()
	}
	found, err := n.runtime.List(ctx)
	for _, f := range found {
		err = errors.Join(err, n.runtime.Remove(ctx, f.TaskID))
	}
	n.stop()
	err = errors.Join(err, n.runtime.Close(), n.client.Close(), companion.Stop(ctx, n.layout.Root()))
	eventually(n.t, "end of the shims", func() error {
		if left := n.shims(); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, _ := filepath.Glob(dir + n.cgroup)
		for _, cgroup := range left {
			if rerr := os.Remove(cgroup); !errors.Is(rerr, os.ErrNotExist) { // some are one folder by two names
				err = errors.Join(err, rerr)
			}
		}
	}
	if err != nil {
		n.t.Errorf("clean up: %v", err)
	}
}

// container is one that runs a shell script; edit may change all of it.
func (n *node) container(script string, edit ...func(*worker.Container)) worker.Container {
	n.t.Helper()
	n.tasks++
	id := fmt.Sprintf("task%d", n.tasks)
	logs := filepath.Join(n.dir, "logs", id)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		n.t.Fatal(err)
	}
	for _, f := range []string{worker.StdoutFile, worker.StderrFile} {
		if err := os.WriteFile(filepath.Join(logs, f), nil, 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	c := worker.Container{
		Task: &swarmv1.Task{Id: id, ServiceId: "service1"},
		Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: imageRef, Command: []string{"/bin/sh", "-c", script}},
			Resources:     &swarmv1.ResourceRequirements{},
		}}},
		Hostname: "box",
		LogDir:   logs,
		Node:     worker.NodeInfo{ID: "node1", Hostname: "host1", OS: "linux", Arch: goruntime.GOARCH},
	}
	for _, e := range edit {
		e(&c)
	}
	return c
}

// run prepares and starts.
func (n *node) run(c worker.Container) worker.Started {
	n.t.Helper()
	if err := n.runtime.Prepare(n.ctx, c); err != nil {
		n.t.Fatal(err)
	}
	s, err := n.runtime.Start(n.ctx, c.Task.GetId())
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *node) wait(id string) worker.Exit {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	e, err := n.runtime.Wait(ctx, id)
	if err != nil {
		n.t.Fatal(err)
	}
	return e
}

// output runs a container to its end and gives what it wrote.
func (n *node) output(c worker.Container) (stdout, stderr string, e worker.Exit) {
	n.t.Helper()
	n.run(c)
	e = n.wait(c.Task.GetId())
	// Delete waits for the shim to have copied all output.
	if err := n.runtime.Remove(n.ctx, c.Task.GetId()); err != nil {
		n.t.Fatal(err)
	}
	return n.read(filepath.Join(c.LogDir, worker.StdoutFile)), n.read(filepath.Join(c.LogDir, worker.StderrFile)), e
}

func (n *node) read(path string) string {
	n.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// eventually asks again until cond returns nil.
func eventually(t testing.TB, what string, cond func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// findRunc prefers the runc that `make build` made to the host's.
func findRunc(t testing.TB) string {
	t.Helper()
	if runc.Embedded() != nil {
		return ""
	}
	if built, err := filepath.Abs("runc/embed/runc"); err == nil {
		if _, err := os.Stat(built); err == nil {
			return built
		}
	}
	path, err := runc.Host()
	if err != nil {
		t.Skip(err)
	}
	return path
}

func initPath() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("swarm-ct-init-%d", os.Getpid()))
}

var buildInit = sync.OnceValues(func() (string, error) {
	path := initPath()
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", path, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the init program: %w\n%s", err, out)
	}
	return path, nil
})

// initProgram is a small static program with nothing but the reaper in it.
func initProgram(t testing.TB) string {
	t.Helper()
	path, err := buildInit()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *node) importImage() {
	n.t.Helper()
	archive, err := busyboxImage()
	if err != nil {
		n.t.Skip(err)
	}
	if _, err := n.client.Import(n.ctx, bytes.NewReader(archive)); err != nil {
		n.t.Fatal(err)
	}
}

// busyboxImage is a Docker archive with the host's static busybox, a user and a volume.
var busyboxImage = sync.OnceValues(func() ([]byte, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("needs a static busybox: %w", err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return busyboxFiles(data, strings.Fields(string(applets))) })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	cfg.Config = imagev1.Config{
		Env:        []string{"PATH=/bin:/sbin", "FROM_IMAGE=yes", "CHANGED=no"},
		WorkingDir: "/srv",
		Entrypoint: []string{"/bin/sh", "-c"},
		Cmd:        []string{"echo from the image"},
		StopSignal: "SIGUSR1",
		Volumes:    map[string]struct{}{"/data": {}},
	}
	if image, err = mutate.ConfigFile(image, cfg); err != nil {
		return nil, err
	}
	tag, err := name.NewTag(imageRef)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	err = tarball.Write(tag, image, &archive)
	return archive.Bytes(), err
})

func busyboxFiles(program []byte, applets []string) (io.ReadCloser, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) error {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(body)
		return err
	}
	var err error
	for _, dir := range []string{"bin", "etc", "srv", "data", "tmp"} {
		err = errors.Join(err, add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil))
	}
	err = errors.Join(err,
		add(tar.Header{Name: "bin/busybox", Mode: 0o755}, program),
		add(tar.Header{Name: "data/seed", Mode: 0o640, Uid: 7}, []byte("seed\n")),
		add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n")),
		add(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nwheel:x:10:root\nalice:x:1001:\nplayers:x:2000:alice\nextra:x:3000:\n")),
	)
	for _, applet := range applets {
		if applet != "busybox" {
			err = errors.Join(err, add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil))
		}
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), nil
}
