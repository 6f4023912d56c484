//go:build linux

package containerd_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"swarm/containerd/layout"
	"swarm/worker/engine"
)

// BenchmarkFifty makes and removes 50 containers: with the runtime, all at once as the worker does,
// and for comparison with only containerd's client, four at a time.
func BenchmarkFifty(b *testing.B) {
	const many = 50
	for _, way := range []struct {
		name   string
		atOnce int
		make   func(*node, int) (remove func() error, err error)
	}{
		{"runtime", many, (*node).benchOurs},
		{"bare", 4, (*node).benchBare},
	} {
		b.Run(way.name, func(b *testing.B) {
			n := newNode(b)
			n.unpack()
			var made, gone time.Duration
			round := 0
			for b.Loop() {
				removes := make([]func() error, many)
				began := time.Now()
				inParallel(b, many, way.atOnce, func(i int) (err error) {
					removes[i], err = way.make(n, round*many+i)
					return err
				})
				made += time.Since(began)
				began = time.Now()
				inParallel(b, many, way.atOnce, func(i int) error { return removes[i]() })
				gone += time.Since(began)
				round++
			}
			b.ReportMetric(made.Seconds()/float64(b.N), "create-s/op")
			b.ReportMetric(gone.Seconds()/float64(b.N), "remove-s/op")
		})
	}
}

func inParallel(b *testing.B, n, atOnce int, do func(i int) error) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func (n *node) benchOurs(i int) (func() error, error) {
	c := n.benchContainer(fmt.Sprintf("ours%d", i))
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		return nil, err
	}
	if _, err := n.runtime.Start(n.Ctx, c.Task.GetId()); err != nil {
		return nil, err
	}
	return func() error {
		if err := n.runtime.Stop(n.Ctx, c.Task.GetId(), "", 0); err != nil {
			return err
		}
		return n.runtime.Remove(n.Ctx, c.Task.GetId())
	}, nil
}

const benchScript = "exec sleep 1000"

func (n *node) unpack() {
	n.T.Helper()
	image, err := n.client.GetImage(n.Ctx, imageRef)
	if err == nil {
		err = image.Unpack(n.Ctx, "overlayfs")
	}
	if err != nil {
		n.T.Fatal(err)
	}
}

func (n *node) benchContainer(id string) engine.Container {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.container(benchScript)
	c.Task.Id = id
	return c
}

func (n *node) benchBare(i int) (func() error, error) {
	id := fmt.Sprintf("bare%d", i)
	image, err := n.client.GetImage(n.Ctx, imageRef)
	if err != nil {
		return nil, err
	}
	c, err := n.client.NewContainer(n.Ctx, id,
		client.WithImage(image),
		client.WithSnapshotter("overlayfs"),
		client.WithNewSnapshot(id, image),
		client.WithRuntime(layout.RuntimeName, &options.Options{Root: n.Layout.RuncRoot(), BinaryName: n.Programs.Runc}),
		client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("/bin/sh", "-c", benchScript), oci.WithCgroup(n.Cgroup+"/"+id)),
	)
	if err != nil {
		return nil, err
	}
	task, err := c.NewTask(n.Ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	exited, err := task.Wait(n.Ctx)
	if err != nil {
		return nil, err
	}
	if err := task.Start(n.Ctx); err != nil {
		return nil, err
	}
	return func() error {
		if err := task.Kill(n.Ctx, syscall.SIGKILL); err != nil {
			return err
		}
		<-exited
		if _, err := task.Delete(n.Ctx); err != nil {
			return err
		}
		return c.Delete(n.Ctx, client.WithSnapshotCleanup)
	}, nil
}
