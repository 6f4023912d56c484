//go:build linux

package companion_test

import (
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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"swarm/worker/containerd/binary"
	"swarm/worker/containerd/companion"
	"swarm/worker/containerd/exit"
	"swarm/worker/containerd/layout"
	"swarm/worker/containerd/lock"
	"swarm/worker/containerd/runc"
	"swarm/worker/containerd/server"
	"swarm/worker/containerd/shim"
)

const (
	imageRef = "example.com/probe:1"
	patience = 30 * time.Second
)

// TestMain makes the test binary what swarm is: a shim under the shim's name,
// containerd under the verb runtime.
func TestMain(m *testing.M) {
	if shim.Invoked(os.Args) {
		shim.Main()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "runtime" {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Under the race detector each process would sleep for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
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

// node is one node's runtime, in folders of its own.
type node struct {
	t        *testing.T
	layout   layout.Layout
	programs binary.Set
	cgroup   string
	ctx      context.Context
	client   *containerd.Client
	stop     func() // of the companion, not of the runtime process
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	dir, err := os.MkdirTemp("/tmp", "swrt") // short, for the sockets' sake
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
		layout: layout.Layout{Data: filepath.Join(dir, "d"), Run: filepath.Join(dir, "r")},
		cgroup: "/swarm-test-" + strings.TrimPrefix(filepath.Base(dir), "swrt"),
		ctx:    namespaces.WithNamespace(t.Context(), layout.Namespace),
	}
	n.programs = n.install("test")
	n.start("")
	n.client, err = containerd.New(n.layout.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.destroy)
	n.importImage()
	return n
}

func (n *node) install(build string) binary.Set {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	set, err := binary.Install(n.layout.Bin(), build, binary.Source{Program: self, Runc: runc.Embedded(), RuncPath: findRunc(n.t)})
	if err != nil {
		n.t.Fatal(err)
	}
	return set
}

// findRunc prefers the runc that `make build` made to the host's.
func findRunc(t *testing.T) string {
	t.Helper()
	if runc.Embedded() != nil {
		return ""
	}
	if built := "../runc/embed/runc"; exists(built) {
		return built
	}
	path, err := runc.Host()
	if err != nil {
		t.Skip(err)
	}
	return path
}

// start runs a companion and waits until containerd answers.
func (n *node) start(logLevel string) {
	n.t.Helper()
	c, err := companion.New(
		companion.Config{Layout: n.layout, Programs: n.programs, LogLevel: logLevel},
		companion.Deps{Log: slog.New(slog.NewTextHandler(n.t.Output(), nil))},
	)
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

// pid is the runtime process.
func (n *node) pid() int {
	n.t.Helper()
	pid, err := lock.Holder(layout.Lock(n.layout.Root()))
	if err != nil {
		n.t.Fatal(err)
	}
	return pid
}

func (n *node) importImage() {
	n.t.Helper()
	archive, err := probeImage()
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.client.Import(n.ctx, bytes.NewReader(archive)); err != nil {
		n.t.Fatal(err)
	}
	image, err := n.client.GetImage(n.ctx, imageRef)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := image.Unpack(n.ctx, "overlayfs"); err != nil {
		n.t.Fatal(err)
	}
}

// run starts a container; group may be empty.
func (n *node) run(id, group string, args []string, opts ...oci.SpecOpts) containerd.Task {
	n.t.Helper()
	image, err := n.client.GetImage(n.ctx, imageRef)
	if err != nil {
		n.t.Fatal(err)
	}
	opts = append([]oci.SpecOpts{
		oci.WithImageConfig(image),
		oci.WithProcessArgs(append([]string{"/probe"}, args...)...),
		oci.WithCgroup(n.cgroup + "/" + id),
	}, opts...)
	if group != "" {
		opts = append(opts, oci.WithAnnotations(map[string]string{layout.GroupAnnotation: group}))
	}
	c, err := n.client.NewContainer(n.ctx, id,
		containerd.WithImage(image),
		containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, image),
		containerd.WithRuntime(layout.RuntimeName, &options.Options{Root: n.layout.RuncRoot(), BinaryName: n.programs.Runc}),
		containerd.WithNewSpec(opts...),
	)
	if err != nil {
		n.t.Fatal(err)
	}
	task, err := c.NewTask(n.ctx, cio.NullIO)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := task.Start(n.ctx); err != nil {
		n.t.Fatal(err)
	}
	return task
}

func (n *node) record(id string) (exit.Record, error) {
	return exit.Dir(layout.Exits(n.layout.State())).Read(layout.Namespace, id)
}

// awaitRecord waits for a container's exit record.
func (n *node) awaitRecord(id string) exit.Record {
	n.t.Helper()
	var got exit.Record
	eventually(n.t, "exit record of "+id, func() error {
		r, err := n.record(id)
		got = r
		return err
	})
	return got
}

func (n *node) status(id string) (containerd.ProcessStatus, error) {
	c, err := n.client.LoadContainer(n.ctx, id)
	if err != nil {
		return "", err
	}
	task, err := c.Task(n.ctx, nil)
	if err != nil {
		return "", err
	}
	s, err := task.Status(n.ctx)
	return s.Status, err
}

// wantRunning fails the test unless the container runs as that process.
func (n *node) wantRunning(id string, pid uint32) {
	n.t.Helper()
	c, err := n.client.LoadContainer(n.ctx, id)
	if err != nil {
		n.t.Fatalf("container %s: %v", id, err)
	}
	task, err := c.Task(n.ctx, nil)
	if err != nil {
		n.t.Fatalf("task %s: %v", id, err)
	}
	s, err := task.Status(n.ctx)
	if err != nil || s.Status != containerd.Running || task.Pid() != pid {
		n.t.Fatalf("container %s: got %v, pid %d, %v; want running, pid %d", id, s.Status, task.Pid(), err, pid)
	}
}

// shims are the processes that run from the node's shim.
func (n *node) shims() []int {
	n.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		n.t.Fatal(err)
	}
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

func (n *node) remove(id string) error {
	c, err := n.client.LoadContainer(n.ctx, id)
	if err != nil {
		return err
	}
	if task, err := c.Task(n.ctx, nil); err == nil {
		if _, err := task.Delete(n.ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return c.Delete(n.ctx, containerd.WithSnapshotCleanup)
}

// destroy leaves no container, process, mount or cgroup behind.
func (n *node) destroy() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), patience)
	defer cancel()
	n.ctx = ctx
	containers, err := n.client.Containers(ctx)
	for _, c := range containers {
		err = errors.Join(err, n.remove(c.ID()))
	}
	n.stop()
	err = errors.Join(err, n.client.Close(), companion.Stop(ctx, n.layout.Root()))
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

// probeImage is a Docker archive with the one program that the tests run.
var probeImage = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build probe: %w\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return oneFile("probe", data) })
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
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
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
