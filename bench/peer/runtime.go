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
)

// Runtime makes containers with containerd alone, which shows what containerd and runc take by
// themselves.
type Runtime struct {
	ctx    context.Context
	client *containerd.Client
	image  containerd.Image
	cgroup string // of the containers
}

// NewRuntime connects to the containerd at an address. It uses the first image there, and puts its
// containers below a cgroup. The caller calls Close.
func NewRuntime(ctx context.Context, address, cgroup string) (*Runtime, error) {
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
		return &Runtime{ctx: ctx, client: client, image: image, cgroup: cgroup}, nil
	}
	return nil, fmt.Errorf("no image in the containerd at %s", address)
}

// Close closes the connection.
func (b *Runtime) Close() error { return b.client.Close() }

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
	all := make([]containerd.Container, n)
	began := time.Now()
	err = b.each(n, atOnce, func(i int) error {
		id := fmt.Sprintf("bare%d", i)
		container, err := b.client.NewContainer(b.ctx, id, containerd.WithImage(b.image), containerd.WithNewSnapshot(id, b.image),
			containerd.WithNewSpec(oci.WithImageConfig(b.image), oci.WithCgroup(b.cgroup+"/"+id)))
		if err != nil {
			return err
		}
		all[i] = container
		if tasks[i], err = container.NewTask(b.ctx, cio.NullIO); err != nil {
			return err
		}
		return tasks[i].Start(b.ctx)
	})
	if err != nil {
		return 0, 0, err
	}
	create = time.Since(began)
	began = time.Now()
	err = b.each(n, atOnce, func(i int) error {
		exited, err := tasks[i].Wait(b.ctx)
		if err != nil {
			return err
		}
		if err := tasks[i].Kill(b.ctx, stop); err != nil {
			return err
		}
		<-exited
		if _, err := tasks[i].Delete(b.ctx); err != nil {
			return err
		}
		return all[i].Delete(b.ctx, containerd.WithSnapshotCleanup)
	})
	return create, time.Since(began), err
}

func (b *Runtime) each(n, atOnce int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}
