//go:build linux

package companion_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"

	"swarm/containerd/containerdtest"
	"swarm/containerd/exit"
	"swarm/containerd/layout"
	"swarm/internal/eventually"
)

const (
	imageRef = "example.com/probe:1"
	// patience is for a clean-up on a machine that is busy with other tests.
	patience = 30 * time.Second
)

func TestMain(m *testing.M) {
	containerdtest.Become()
	m.Run()
}

// node is one node's runtime, spoken to by containerd's own client.
type node struct {
	*containerdtest.Node
	client *containerd.Client
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{Node: containerdtest.New(t)}
	var err error
	if n.client, err = containerd.New(n.Layout.Socket()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.clear)
	n.importImage()
	return n
}

func (n *node) importImage() {
	n.T.Helper()
	archive, err := probeImage()
	if err != nil {
		n.T.Fatal(err)
	}
	if _, err := n.client.Import(n.Ctx, bytes.NewReader(archive)); err != nil {
		n.T.Fatal(err)
	}
	image, err := n.client.GetImage(n.Ctx, imageRef)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := image.Unpack(n.Ctx, "overlayfs"); err != nil {
		n.T.Fatal(err)
	}
}

// run starts a container; group may be empty.
func (n *node) run(id, group string, args []string, opts ...oci.SpecOpts) containerd.Task {
	n.T.Helper()
	image, err := n.client.GetImage(n.Ctx, imageRef)
	if err != nil {
		n.T.Fatal(err)
	}
	opts = append([]oci.SpecOpts{
		oci.WithImageConfig(image),
		oci.WithProcessArgs(append([]string{"/probe"}, args...)...),
		oci.WithCgroup(n.Cgroup + "/" + id),
	}, opts...)
	if group != "" {
		opts = append(opts, oci.WithAnnotations(map[string]string{layout.GroupAnnotation: group}))
	}
	c, err := n.client.NewContainer(n.Ctx, id,
		containerd.WithImage(image),
		containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, image),
		containerd.WithRuntime(layout.RuntimeName, &options.Options{Root: n.Layout.RuncRoot(), BinaryName: n.Programs.Runc}),
		containerd.WithNewSpec(opts...),
	)
	if err != nil {
		n.T.Fatal(err)
	}
	task, err := c.NewTask(n.Ctx, cio.NullIO)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := task.Start(n.Ctx); err != nil {
		n.T.Fatal(err)
	}
	return task
}

// awaitReady waits until the `probe wait` in each container listens for its signal. The kernel
// drops a signal to the first process of a PID namespace that the process does not handle yet.
func (n *node) awaitReady(tasks ...containerd.Task) {
	n.T.Helper()
	for _, task := range tasks {
		eventually.Nil(n.T, task.ID()+" to be ready", func() error {
			_, err := os.Stat(fmt.Sprintf("/proc/%d/root/ready", task.Pid()))
			return err
		})
	}
}

func (n *node) record(id string) (exit.Record, error) {
	return exit.Dir(layout.Exits(n.Layout.State())).Read(layout.Namespace, id)
}

// awaitRecord waits for a container's exit record.
func (n *node) awaitRecord(id string) exit.Record {
	n.T.Helper()
	var got exit.Record
	eventually.Nil(n.T, "exit record of "+id, func() error {
		r, err := n.record(id)
		got = r
		return err
	})
	return got
}

func (n *node) status(id string) (containerd.ProcessStatus, error) {
	c, err := n.client.LoadContainer(n.Ctx, id)
	if err != nil {
		return "", err
	}
	task, err := c.Task(n.Ctx, nil)
	if err != nil {
		return "", err
	}
	s, err := task.Status(n.Ctx)
	return s.Status, err
}

// wantRunning fails the test unless the container runs as that process.
func (n *node) wantRunning(id string, pid uint32) {
	n.T.Helper()
	c, err := n.client.LoadContainer(n.Ctx, id)
	if err != nil {
		n.T.Fatalf("container %s: %v", id, err)
	}
	task, err := c.Task(n.Ctx, nil)
	if err != nil {
		n.T.Fatalf("task %s: %v", id, err)
	}
	s, err := task.Status(n.Ctx)
	if err != nil || s.Status != containerd.Running || task.Pid() != pid {
		n.T.Fatalf("container %s: got %v, pid %d, %v; want running, pid %d", id, s.Status, task.Pid(), err, pid)
	}
}

func (n *node) remove(ctx context.Context, id string) error {
	c, err := n.client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	if task, err := c.Task(ctx, nil); err == nil {
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return c.Delete(ctx, containerd.WithSnapshotCleanup)
}

// clear removes the containers, for which containerd must run.
func (n *node) clear() {
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	containers, err := n.client.Containers(ctx)
	for _, c := range containers {
		err = errors.Join(err, n.remove(ctx, c.ID()))
	}
	if err := errors.Join(err, n.client.Close()); err != nil {
		n.T.Errorf("clean up: %v", err)
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
	return containerdtest.Archive(imageRef, imagev1.Config{}, containerdtest.File{Header: tar.Header{Name: "probe", Mode: 0o755}, Body: data})
})
