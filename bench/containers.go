package main

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

	"swarm/containerd/layout"
	"swarm/dev"
)

// containers: 50 on one host through the whole product, against 50 bare ones through the same containerd, interleaved.
func containers(ctx context.Context, e env) error {
	const n, atOnce = 50, 4
	c, err := bring(ctx, e, dev.Options{Nodes: 1, Managers: 1}, e.archive)
	if err != nil {
		return err
	}
	defer c.down()
	bare, err := newBare(ctx, layout.Layout{Data: c.hosts[0].StateDir, Run: c.hosts[0].RunDir}.Socket(), e.cgroup())
	if err != nil {
		return err
	}
	defer sweep(dev.Scope{Cgroups: []string{bare.cgroup}})
	defer bare.client.Close()
	var create, remove, bareCreate, bareRemove times
	for i := range e.rounds {
		made, gone, err := createAndRemove(ctx, c.control, service(fmt.Sprintf("fifty%d", i), n), n, bare.gone)
		if err != nil {
			return err
		}
		create, remove = append(create, made), append(remove, gone)
		if made, gone, err = bare.createAndRemove(n, atOnce); err != nil {
			return fmt.Errorf("bare containers: %w", err)
		}
		bareCreate, bareRemove = append(bareCreate, made), append(bareRemove, gone)
	}
	compared := func(b times) string {
		return fmt.Sprintf("median of %d; bare, 4 at once: %s", e.rounds, b.seconds())
	}
	figure("create50_s", create.median().Seconds(), "s", compared(bareCreate))
	figure("create50_ratio", ratios(create, bareCreate), "x", "to 50 bare containers, 4 at once, same containerd, same run; ours: "+create.seconds())
	figure("remove50_s", remove.median().Seconds(), "s", compared(bareRemove))
	figure("remove50_ratio", ratios(remove, bareRemove), "x", "the same; ours: "+remove.seconds())
	return nil
}

// bareRuntime starts containers with nothing around them: what containerd and runc take by themselves.
type bareRuntime struct {
	ctx    context.Context
	client *containerd.Client
	image  containerd.Image
	cgroup string // of the containers
}

func newBare(ctx context.Context, address, cgroup string) (*bareRuntime, error) {
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
		return &bareRuntime{ctx: ctx, client: client, image: image, cgroup: cgroup}, nil
	}
	return nil, fmt.Errorf("no image in the containerd at %s", address)
}

// gone waits until containerd has no container: a task's row may go before its container's files do.
func (b *bareRuntime) gone(ctx context.Context) error {
	return poll(ctx, "the containers to be removed", func() bool {
		left, err := b.client.Containers(b.ctx)
		return err == nil && len(left) == 0
	})
}

func (b *bareRuntime) createAndRemove(n, atOnce int) (create, remove time.Duration, err error) {
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
		if err := tasks[i].Kill(b.ctx, syscall.SIGTERM); err != nil {
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

func (b *bareRuntime) each(n, atOnce int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}
