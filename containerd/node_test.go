//go:build linux

package containerd_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"

	"swarm/containerd"
	"swarm/containerd/containerdtest"
	"swarm/containerd/layout"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

const (
	imageRef = "example.com/busybox:1"
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	containerdtest.Become()
	m.Run()
	_ = os.Remove(initPath())
}

// node is a containerd of one node, with the runtime under test as its client.
type node struct {
	*containerdtest.Node
	client  *client.Client
	runtime *containerd.Runtime
	mu      sync.Mutex // guards tasks, in benchmarks
	tasks   int
}

// newNode makes a test parallel, because the test mostly waits for disks and processes.
func newNode(t testing.TB) *node {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	n := &node{Node: containerdtest.New(t)}
	var err error
	if n.client, err = containerd.Connect(n.Layout.Socket()); err != nil {
		t.Fatal(err)
	}
	n.runtime = n.newRuntime()
	t.Cleanup(n.clear)
	n.importImage()
	return n
}

// newRuntime returns a further runtime, as a daemon makes it when it starts.
func (n *node) newRuntime() *containerd.Runtime {
	n.T.Helper()
	r, err := containerd.New(n.config(), containerd.Deps{Log: n.Log(), Client: n.client})
	if err != nil {
		n.T.Fatal(err)
	}
	return r
}

func (n *node) config() containerd.Config {
	return containerd.Config{
		StateDir:     filepath.Join(n.Layout.Data, "worker"),
		RunDir:       filepath.Join(n.Layout.Run, "worker"),
		RuncRoot:     n.Layout.RuncRoot(),
		Runc:         n.Programs.Runc,
		Build:        n.Programs.Build,
		Exits:        layout.Exits(n.Layout.State()),
		Init:         initProgram(n.T),
		CgroupParent: n.Cgroup,
	}
}

// clear removes the containers. containerd must run.
func (n *node) clear() {
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	if serving, err := n.client.IsServing(ctx); err != nil || !serving {
		n.Start("")
	}
	found, err := n.runtime.List(ctx)
	for _, f := range found {
		err = errors.Join(err, n.runtime.Remove(ctx, f.TaskID))
	}
	if err := errors.Join(err, n.runtime.Close(), n.client.Close()); err != nil {
		n.T.Errorf("clean up: %v", err)
	}
}

// container returns a container that runs a shell script. edit may change every part of it.
func (n *node) container(script string, edit ...func(*engine.Container)) engine.Container {
	n.T.Helper()
	n.tasks++
	id := fmt.Sprintf("task%d", n.tasks)
	logs := filepath.Join(n.Dir, "logs", id)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		n.T.Fatal(err)
	}
	for _, f := range []string{engine.StdoutFile, engine.StderrFile} {
		if err := os.WriteFile(filepath.Join(logs, f), nil, 0o600); err != nil {
			n.T.Fatal(err)
		}
	}
	c := engine.Container{
		Task: &swarmv1.Task{Id: id, ServiceId: "service1"},
		Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: imageRef, Command: []string{"/bin/sh", "-c", script}},
			Resources:     &swarmv1.ResourceRequirements{},
		}}},
		Hostname: "box",
		LogDir:   logs,
		Node:     engine.NodeInfo{ID: "node1", Hostname: "host1", OS: "linux", Arch: goruntime.GOARCH},
	}
	for _, e := range edit {
		e(&c)
	}
	return c
}

// run prepares and starts a container.
func (n *node) run(c engine.Container) engine.Started {
	n.T.Helper()
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		n.T.Fatal(err)
	}
	s, err := n.runtime.Start(n.Ctx, c.Task.GetId())
	if err != nil {
		n.T.Fatal(err)
	}
	return s
}

func (n *node) wait(id string) engine.Exit {
	n.T.Helper()
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	e, err := n.runtime.Wait(ctx, id)
	if err != nil {
		n.T.Fatal(err)
	}
	return e
}

// output runs a container to its end, and returns its output.
func (n *node) output(c engine.Container) (stdout, stderr string, e engine.Exit) {
	n.T.Helper()
	n.run(c)
	e = n.wait(c.Task.GetId())
	// Delete waits until the shim has copied all output.
	if err := n.runtime.Remove(n.Ctx, c.Task.GetId()); err != nil {
		n.T.Fatal(err)
	}
	return n.read(filepath.Join(c.LogDir, engine.StdoutFile)), n.read(filepath.Join(c.LogDir, engine.StderrFile)), e
}

func (n *node) read(path string) string {
	n.T.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		n.T.Fatal(err)
	}
	return string(b)
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

// initProgram returns the path of a small static program that contains only the reaper.
func initProgram(t testing.TB) string {
	t.Helper()
	path, err := buildInit()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *node) importImage() {
	n.T.Helper()
	archive, err := busyboxImage()
	if err != nil {
		n.T.Skip(err)
	}
	if _, err := n.client.Import(n.Ctx, bytes.NewReader(archive)); err != nil {
		n.T.Fatal(err)
	}
}

// busyboxImage returns a Docker archive with the host's static busybox, a user and a volume.
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
	config := imagev1.Config{
		Env:        []string{"PATH=/bin:/sbin", "FROM_IMAGE=yes", "CHANGED=no"},
		WorkingDir: "/srv",
		Entrypoint: []string{"/bin/sh", "-c"},
		Cmd:        []string{"echo from the image"},
		StopSignal: "SIGUSR1",
		Volumes:    map[string]struct{}{"/data": {}},
	}
	return containerdtest.Archive(imageRef, config, busyboxFiles(data, strings.Fields(string(applets)))...)
})

func busyboxFiles(program []byte, applets []string) []containerdtest.File {
	var files []containerdtest.File
	add := func(h tar.Header, body []byte) { files = append(files, containerdtest.File{Header: h, Body: body}) }
	for _, dir := range []string{"bin", "etc", "srv", "data", "tmp"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, program)
	add(tar.Header{Name: "data/seed", Mode: 0o640, Uid: 7}, []byte("seed\n"))
	add(tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nwheel:x:10:root\nalice:x:1001:\nplayers:x:2000:alice\nextra:x:3000:\n"))
	for _, applet := range applets {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	return files
}
