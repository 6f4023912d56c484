//go:build linux

package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/images"
	mounts "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/layout"
	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/lease"
)

func TestRuntime_LifeOfAContainer(t *testing.T) {
	n := newNode(t)
	c := n.container("trap 'exit 3' USR1; echo out; echo err >&2; while :; do sleep 0.02; done")
	id := c.Task.GetId()
	for range 2 { // the second changes nothing
		if err := n.runtime.Prepare(n.Ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	started, err := n.runtime.Start(n.Ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Start(n.Ctx, id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: got %v, want failed precondition", err)
	}
	want := []engine.Found{{TaskID: id, ServiceID: "service1", Running: true, Pid: started.Pid}}
	if got, err := n.runtime.List(n.Ctx); err != nil || !cmp.Equal(want, got) {
		t.Errorf("list: got %+v, %v, want %+v", got, err, want)
	}
	eventually.Nil(t, "the container's output", func() error {
		out, err := n.read(filepath.Join(c.LogDir, engine.StdoutFile)), n.read(filepath.Join(c.LogDir, engine.StderrFile))
		if out != "out\n" || err != "err\n" {
			return fmt.Errorf("got %q and %q", out, err)
		}
		return nil
	})
	if err := n.runtime.Stop(n.Ctx, id, "", patience); err != nil { // the image's signal
		t.Fatal(err)
	}
	if e := n.wait(id); e.Code != 3 || e.OOM || e.CodeUnknown {
		t.Errorf("exit: got %+v, want code 3", e)
	}
	if got, err := n.runtime.List(n.Ctx); err != nil || len(got) != 1 || got[0].Running {
		t.Errorf("list: got %+v, %v, want one that does not run", got, err)
	}
	for range 2 {
		if err := n.runtime.Remove(n.Ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := n.runtime.List(n.Ctx); err != nil || len(got) != 0 {
		t.Errorf("list: got %+v, %v, want none", got, err)
	}
	if _, err := n.runtime.Wait(n.Ctx, id); !errdefs.IsNotFound(err) {
		t.Errorf("wait for what is removed: got %v, want not found", err)
	}
	if err := n.runtime.Stop(n.Ctx, id, "", time.Second); err != nil {
		t.Errorf("stop of what is removed: got %v, want nil", err)
	}
}

func TestRuntime_StopKillsWhatDoesNotListen(t *testing.T) {
	n := newNode(t)
	c := n.container("trap '' TERM; echo ready; while :; do sleep 0.02; done")
	n.run(c)
	eventually.Nil(t, "the trap", func() error {
		if n.read(filepath.Join(c.LogDir, engine.StdoutFile)) == "" {
			return fmt.Errorf("no output")
		}
		return nil
	})
	if err := n.runtime.Stop(n.Ctx, c.Task.GetId(), "TERM", 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := n.wait(c.Task.GetId()); e.Code != 137 {
		t.Errorf("exit: got %+v, want code 137", e)
	}
}

func TestRuntime_RefusesWhatCannotRun(t *testing.T) {
	n := newNode(t)
	missing := n.container("true")
	missing.Spec().Image = "example.com/absent:1"
	if err := n.runtime.Prepare(n.Ctx, missing); !errdefs.IsNotFound(err) {
		t.Errorf("image that is not held: got %v, want not found", err)
	}
	if _, err := n.runtime.Start(n.Ctx, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("start of what was not prepared: got %v, want not found", err)
	}
	c := n.container("true")
	c.Spec().Command = []string{"/no/such/program"}
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Start(n.Ctx, c.Task.GetId()); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
		t.Errorf("start of a program that is not there: got %v, want one line of invalid argument", err)
	}
	for _, driver := range []*swarmv1.Driver{{Name: "nfs"}, {Options: map[string]string{"type": "nfs"}}} {
		volume := n.container("true")
		volume.Spec().Mounts = []*swarmv1.Mount{{Type: swarmv1.Mount_VOLUME, Target: "/v", VolumeOptions: &swarmv1.VolumeOptions{DriverConfig: driver}}}
		if err := n.runtime.Prepare(n.Ctx, volume); !errdefs.IsInvalidArgument(err) {
			t.Errorf("volume of driver %v: got %v, want invalid argument", driver, err)
		}
	}
	user := n.container("true")
	user.Spec().User = "nobody-at-all"
	if err := n.runtime.Prepare(n.Ctx, user); !errdefs.IsInvalidArgument(err) {
		t.Errorf("user that the image does not have: got %v, want invalid argument", err)
	}
	if err := n.runtime.Remove(n.Ctx, c.Task.GetId()); err != nil {
		t.Fatal(err)
	}
	if got, err := n.runtime.List(n.Ctx); err != nil || len(got) != 0 {
		t.Errorf("list: got %+v, %v, want none", got, err)
	}
}

func TestRuntime_NextProcessFindsContainersAndExits(t *testing.T) {
	n := newNode(t)
	stays := n.container("while :; do sleep 0.02; done")
	leaves := n.container("trap 'exit 5' USR1; echo ready; while :; do sleep 0.02; done")
	prepared := n.container("exit 6")
	pid := n.run(stays).Pid
	left := n.run(leaves).Pid
	if err := n.runtime.Prepare(n.Ctx, prepared); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "the trap", func() error {
		if n.read(filepath.Join(leaves.LogDir, engine.StdoutFile)) == "" {
			return fmt.Errorf("no output")
		}
		return nil
	})

	n.Kill()
	if err := syscall.Kill(int(left), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "end of the container", func() error {
		if syscall.Kill(int(left), 0) == nil {
			return fmt.Errorf("process %d is there", left)
		}
		return nil
	})
	n.Start("")
	n.runtime = n.newRuntime()

	if e := n.wait(leaves.Task.GetId()); e.Code != 5 || e.CodeUnknown {
		t.Errorf("exit while containerd was down: got %+v, want code 5", e)
	}
	found, err := n.runtime.List(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if runs := f.TaskID == stays.Task.GetId(); f.Running != runs || runs && f.Pid != pid {
			t.Errorf("list: got %+v, want pid %d running and nobody else", f, pid)
		}
	}
	if _, err := n.runtime.Start(n.Ctx, prepared.Task.GetId()); err != nil {
		t.Fatal(err)
	}
	if e := n.wait(prepared.Task.GetId()); e.Code != 6 {
		t.Errorf("exit of what another process prepared: got %+v, want code 6", e)
	}
}

func TestRuntime_ExitThatNobodyRecorded(t *testing.T) {
	n := newNode(t)
	c := n.container("exit 9")
	id := c.Task.GetId()
	n.run(c)
	n.wait(id)
	// After a reboot there is neither a shim nor a record.
	n.Kill()
	for _, pid := range n.Shims() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	n.Start("")
	if err := os.RemoveAll(filepath.Join(n.Layout.State(), "exits")); err != nil {
		t.Fatal(err)
	}
	n.runtime = n.newRuntime()
	if e := n.wait(id); !e.CodeUnknown || e.Code != -1 {
		t.Errorf("exit: got %+v, want an unknown code", e)
	}
	if _, err := n.runtime.Start(n.Ctx, id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start: got %v, want failed precondition", err)
	}
}

func TestRuntime_WaitOutlivesAContainerdAndADeadShim(t *testing.T) {
	n := newNode(t)
	c := n.container("while :; do sleep 0.02; done")
	n.run(c)
	type result struct {
		exit engine.Exit
		err  error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	go func() {
		e, err := n.runtime.Wait(ctx, c.Task.GetId())
		done <- result{e, err}
	}()
	n.Kill()
	n.Start("")
	for _, pid := range n.Shims() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-done; got.err != nil || !got.exit.CodeUnknown {
		t.Errorf("wait: got %+v, %v, want an unknown code", got.exit, got.err)
	}
	if err := n.runtime.Remove(n.Ctx, c.Task.GetId()); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob("/sys/fs/cgroup/*" + n.Cgroup + "/*/tasks")
	if err != nil || len(left) > 0 {
		t.Errorf("cgroups: got %v, %v, want none", left, err)
	}
}

func TestRuntime_ShimsAreShared(t *testing.T) {
	n := newNode(t)
	var all []engine.Container
	for range 12 {
		c := n.container("exec sleep 1000")
		n.run(c)
		all = append(all, c)
	}
	if got := len(n.Shims()); got != 2 {
		t.Errorf("shims of 12 containers: got %d, want 2", got)
	}
	for _, c := range all {
		if err := n.runtime.Remove(n.Ctx, c.Task.GetId()); err != nil {
			t.Fatal(err)
		}
	}
	n.ShimsEnd()
}

func TestRuntime_OutOfMemoryIsSaid(t *testing.T) {
	n := newNode(t)
	c := n.container("x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done")
	c.Revision.GetSpec().GetTaskTemplate().Resources.Limits = limits(0, 16<<20, 0)
	n.run(c)
	if e := n.wait(c.Task.GetId()); !e.OOM || e.Code != 137 {
		t.Errorf("exit: got %+v, want code 137 by OOM", e)
	}
}

// Shims end with their last container while other containers are about to join them.
func TestRuntime_ChurnInSharedShims(t *testing.T) {
	n := newNode(t)
	var all []engine.Container
	for range 40 {
		all = append(all, n.container("exit 3"))
	}
	var g errgroup.Group
	g.SetLimit(4)
	for _, c := range all {
		g.Go(func() error {
			id := c.Task.GetId()
			if err := n.runtime.Prepare(n.Ctx, c); err != nil {
				return err
			}
			if _, err := n.runtime.Start(n.Ctx, id); err != nil {
				return err
			}
			if e, err := n.runtime.Wait(n.Ctx, id); err != nil || e.Code != 3 {
				return fmt.Errorf("exit of %s: %+v, %w", id, e, err)
			}
			return n.runtime.Remove(n.Ctx, id)
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRuntime_ImageRemovedMeanwhile(t *testing.T) {
	n := newNode(t)
	image, err := n.client.GetImage(n.Ctx, imageRef)
	if err != nil {
		t.Fatal(err)
	}
	pinned := func(c *engine.Container) { c.Spec().Image = imageRef + "@" + image.Target().Digest.String() }
	n.output(n.container("true", pinned))
	if err := n.client.ImageService().Delete(n.Ctx, imageRef, images.SynchronousDelete()); err != nil {
		t.Fatal(err)
	}
	again := n.container("exit 5", pinned)
	if err := n.runtime.Prepare(n.Ctx, again); !errdefs.IsNotFound(err) {
		t.Errorf("prepare without the image: got %v, want not found", err)
	}
	n.importImage()
	n.run(again)
	if e := n.wait(again.Task.GetId()); e.Code != 5 {
		t.Errorf("exit: got %+v, want code 5", e)
	}
}

// The lease ends a container that ignores signals, also while the daemon and containerd are dead.
func TestRuntime_LeaseEndsContainersByItself(t *testing.T) {
	n := newNode(t)
	held := lease.New(filepath.Join(t.TempDir(), "lease"), lease.Now)
	const span = 3 * time.Second
	file, err := held.File()
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Renew(lease.Now() + time.Hour); err != nil {
		t.Fatal(err)
	}
	c := n.container("trap '' TERM; while :; do sleep 0.02; done")
	c.Lease = file
	free := n.container("while :; do sleep 0.02; done")
	pid, freePid := n.run(c).Pid, n.run(free).Pid

	short := lease.New(filepath.Join(t.TempDir(), "short"), lease.Now)
	end := lease.Now() + span
	if err := short.Renew(end); err != nil {
		t.Fatal(err)
	}
	shortFile, err := short.File()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(shortFile, file); err != nil {
		t.Fatal(err)
	}
	n.Kill()
	eventually.Nil(t, "end of the container with the lease", func() error {
		if syscall.Kill(int(pid), 0) == nil {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
	if now := lease.Now(); now < end || now > end+2*time.Second {
		t.Errorf("the container ended %s after its lease, want from 0 to 2s", now-end)
	}
	if err := syscall.Kill(int(freePid), 0); err != nil {
		t.Errorf("a container without a lease: got %v, want it running", err)
	}
	n.Start("")
	if e := n.wait(c.Task.GetId()); e.Code != 137 || !e.Fenced {
		t.Errorf("exit: got %+v, want 137 and fenced", e)
	}
}

// A container that was being set up when its runtime was killed may have died before it was
// started. That is not the end of its task: the container is set up again.
func TestRuntime_ContainerThatDiedBeforeItsStartIsSetUpAnew(t *testing.T) {
	n := newNode(t)
	c := n.container("echo runs; exit 6")
	id := c.Task.GetId()
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(n.Ctx, layout.Namespace)
	rootfs, err := n.client.SnapshotService("overlayfs").Mounts(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	created, err := n.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{ContainerID: id, Rootfs: mounts.ToProto(rootfs)})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(created.GetPid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "the end of the container", func() error {
		resp, err := n.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
		if err == nil && resp.GetProcess().GetStatus() != tasktypes.Status_STOPPED {
			err = fmt.Errorf("its status is %s", resp.GetProcess().GetStatus())
		}
		return err
	})
	if _, err := n.runtime.Start(n.Ctx, id); err != nil {
		t.Fatal(err)
	}
	if e := n.wait(id); e.Code != 6 {
		t.Errorf("exit: got %+v, want code 6", e)
	}
	if got := n.read(filepath.Join(c.LogDir, engine.StdoutFile)); got != "runs\n" {
		t.Errorf("output: got %q", got)
	}
}

// The runtime completes a call of a daemon that is killed. A call of the next daemon during that
// time is not a failure of the task.
func TestRuntime_StartWhileAnotherIsNotOver(t *testing.T) {
	n := newNode(t)
	c := n.container("exit 6")
	id := c.Task.GetId()
	if err := n.runtime.Prepare(n.Ctx, c); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(layout.Bundles(n.Layout.State()), layout.Namespace, id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Start(n.Ctx, id); !errors.Is(err, engine.ErrRuntimeAway) {
		t.Errorf("start beside another call: got %v, want to be told to ask again", err)
	}
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Start(n.Ctx, id); err != nil {
		t.Fatal(err)
	}
	if e := n.wait(id); e.Code != 6 {
		t.Errorf("exit: got %+v, want code 6", e)
	}
}
