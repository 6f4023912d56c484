package peer

import (
	"context"
	"fmt"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sync/errgroup"

	"swarm/bench/testbed"
	"swarm/containerd/layout"
	"swarm/dev"
)

// Runtime makes containers with containerd alone, which shows what containerd and runc take by
// themselves.
type Runtime struct {
	ctx    context.Context
	client *containerd.Client
	image  containerd.Image
	cgroup string // of the containers
}

// NewRuntime connects to the containerd of a swarm host. It uses the first image there, and puts
// its containers below the group's cgroup. The caller calls Close.
func NewRuntime(ctx context.Context, h dev.Host, e testbed.Env) (*Runtime, error) {
	address := layout.Layout{Data: h.StateDir, Run: h.RunDir}.Socket()
	client, err := containerd.New(address)
	if err != nil {
		return nil, err
	}
	ctx = namespaces.WithNamespace(ctx, "swarm")
	images, err := client.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		return &Runtime{ctx: ctx, client: client, image: image, cgroup: e.Cgroup()}, nil
	}
	return nil, fmt.Errorf("no image in the containerd at %s", address)
}

// Close closes the connection, and ends what is left of the containers.
func (b *Runtime) Close() {
	_ = b.client.Close()
	testbed.Sweep(dev.Scope{Cgroups: []string{b.cgroup}})
}

// Gone waits until containerd has no container. A task's row may go before its container's files
// do.
func (b *Runtime) Gone(ctx context.Context) error {
	return testbed.Poll(ctx, "the containers to be removed", func() bool {
		left, err := b.client.Containers(b.ctx)
		return err == nil && len(left) == 0
	})
}

// CreateAndRemove makes and removes n containers, some at once, and returns the time that each
// takes. stop is the signal that ends a container. The first process of a container ignores SIGTERM
// until it has set a handler.
func (b *Runtime) CreateAndRemove(n, atOnce int, stop syscall.Signal) (create, remove time.Duration, err error) {
	tasks := make([]containerd.Task, n)
	began := time.Now()
	if err := b.each(n, atOnce, func(i int) (err error) {
		tasks[i], err = b.create(fmt.Sprintf("bare%d", i))
		return err
	}); err != nil {
		return 0, 0, err
	}
	create = time.Since(began)
	began = time.Now()
	err = b.each(n, atOnce, func(i int) error { return b.remove(tasks[i], stop) })
	return create, time.Since(began), err
}

// Replace makes n containers, and then replaces each by another one, some at once. It returns the
// time that the replacement takes.
func (b *Runtime) Replace(n, atOnce int) (time.Duration, error) {
	tasks := make([]containerd.Task, n)
	if err := b.each(n, n, func(i int) (err error) {
		tasks[i], err = b.create(fmt.Sprintf("old%d", i))
		return err
	}); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := b.each(n, atOnce, func(i int) error {
		if err := b.remove(tasks[i], syscall.SIGKILL); err != nil {
			return err
		}
		var err error
		tasks[i], err = b.create(fmt.Sprintf("new%d", i))
		return err
	}); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, b.each(n, n, func(i int) error { return b.remove(tasks[i], syscall.SIGKILL) })
}

// create makes and starts a container.
func (b *Runtime) create(id string) (containerd.Task, error) {
	container, err := b.client.NewContainer(b.ctx, id, containerd.WithImage(b.image), containerd.WithNewSnapshot(id, b.image),
		containerd.WithNewSpec(oci.WithImageConfig(b.image), oci.WithCgroup(b.cgroup+"/"+id)))
	if err != nil {
		return nil, err
	}
	task, err := container.NewTask(b.ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	return task, task.Start(b.ctx)
}

// remove stops a container by a signal, and removes it.
func (b *Runtime) remove(task containerd.Task, stop syscall.Signal) error {
	exited, err := task.Wait(b.ctx)
	if err != nil {
		return err
	}
	if err := task.Kill(b.ctx, stop); err != nil {
		return err
	}
	<-exited
	if _, err := task.Delete(b.ctx); err != nil {
		return err
	}
	container, err := b.client.LoadContainer(b.ctx, task.ID())
	if err != nil {
		return err
	}
	return container.Delete(b.ctx, containerd.WithSnapshotCleanup)
}

func (b *Runtime) each(n, atOnce int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}
