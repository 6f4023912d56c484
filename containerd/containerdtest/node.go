//go:build linux

// Package containerdtest runs a containerd for each test: the runtime process with its shims, in
// folders, a lock and a cgroup that no other test uses.
//
// It owns their clean-up: when the test ends, no process, mount or cgroup of its node is left. The
// test itself removes its containers. Tests below the folder containerd call it, and their TestMain
// calls Become. It runs the companion's goroutine while the companion runs.
package containerdtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"swarm/containerd/binary"
	"swarm/containerd/companion"
	"swarm/containerd/layout"
	"swarm/containerd/lock"
	"swarm/containerd/runc"
	"swarm/internal/eventually"
)

// patience is how long one step may take on a busy machine.
const patience = 30 * time.Second

// Node is one node's containerd.
type Node struct {
	// T is the test that fails if the node fails. A subtest may replace it temporarily.
	T testing.TB
	// Ctx carries containerd's namespace.
	Ctx      context.Context
	Dir      string
	Layout   layout.Layout
	Programs binary.Set
	// Cgroup is the parent cgroup of the containers.
	Cgroup string
	// Stop ends the companion, and not containerd.
	Stop func()
}

// New returns a node whose containerd answers.
func New(t testing.TB) *Node {
	t.Helper()
	dir := Folder(t)
	n := &Node{
		T:      t,
		Ctx:    namespaces.WithNamespace(context.Background(), layout.Namespace),
		Dir:    dir,
		Layout: layout.Layout{Data: filepath.Join(dir, "d"), Run: filepath.Join(dir, "r")},
		Cgroup: "/swarm-test-" + strings.TrimPrefix(filepath.Base(dir), folderPrefix),
	}
	n.Programs = n.Install("test")
	t.Cleanup(n.close)
	n.Start("")
	return n
}

const folderPrefix = "swct"

// Folder returns a folder of the test with a path that is short enough for sockets. It skips the
// test unless it runs as root.
func Folder(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs containerd")
	}
	dir, err := os.MkdirTemp("/tmp", folderPrefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Install makes the test binary and runc the programs of a build.
func (n *Node) Install(build string) binary.Set {
	n.T.Helper()
	self, err := os.Executable()
	if err != nil {
		n.T.Fatal(err)
	}
	set, err := binary.Install(n.Layout.Bin(), build, binary.Source{Program: self, Runc: runc.Embedded(), RuncPath: findRunc(n.T)})
	if err != nil {
		n.T.Fatal(err)
	}
	return set
}

// findRunc returns the runc that `make build` made, else the host's. The working folder of a test
// is that of its package.
func findRunc(t testing.TB) string {
	t.Helper()
	if runc.Embedded() != nil {
		return ""
	}
	for _, built := range []string{"runc/embed/runc", "../runc/embed/runc"} {
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

// Log returns a logger that writes to the test's output.
func (n *Node) Log() *slog.Logger { return slog.New(slog.NewTextHandler(n.T.Output(), nil)) }

// Start runs a companion, and returns when containerd answers.
func (n *Node) Start(logLevel string) {
	n.T.Helper()
	c, err := companion.New(companion.Config{Layout: n.Layout, Programs: n.Programs, LogLevel: logLevel}, companion.Deps{Log: n.Log()})
	if err != nil {
		n.T.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); err != nil {
			n.T.Error(err)
		}
	}()
	n.Stop = sync.OnceFunc(func() { cancel(); <-done })
	n.T.Cleanup(n.Stop)
	ready, cancelReady := context.WithTimeout(n.Ctx, patience)
	defer cancelReady()
	if err := c.Ready(ready); err != nil {
		n.T.Fatal(err)
	}
}

// Pid returns the process id of containerd, or 0 if it does not run.
func (n *Node) Pid() int {
	n.T.Helper()
	pid, err := lock.Holder(layout.Lock(n.Layout.Root()))
	if err != nil {
		n.T.Fatal(err)
	}
	return pid
}

// Kill kills containerd, and returns when it has ended. It is not started again.
func (n *Node) Kill() {
	n.T.Helper()
	n.Stop()
	pid := n.Pid()
	if pid == 0 {
		n.T.Fatal("no runtime process")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.T.Fatal(err)
	}
	eventually.Nil(n.T, "end of the runtime process", func() error {
		if pid := n.Pid(); pid != 0 {
			return fmt.Errorf("process %d holds the lock", pid)
		}
		return nil
	})
}

// Shims returns the processes that run from the node's shim.
func (n *Node) Shims() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is valid
	var pids []int
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == n.Programs.Shim {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// ShimsEnd waits until no shim is left.
func (n *Node) ShimsEnd() {
	n.T.Helper()
	eventually.Nil(n.T, "end of the shims", func() error {
		if left := n.Shims(); len(left) > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}

// close leaves no process, mount or cgroup behind.
func (n *Node) close() {
	ctx, cancel := context.WithTimeout(n.Ctx, patience)
	defer cancel()
	n.Stop()
	err := companion.Stop(ctx, n.Layout.Root())
	n.ShimsEnd()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, _ := filepath.Glob(dir + n.Cgroup) // the pattern is valid
		for _, cgroup := range left {
			if rerr := os.Remove(cgroup); !errors.Is(rerr, os.ErrNotExist) { // some are one folder by two names
				err = errors.Join(err, rerr)
			}
		}
	}
	if err != nil {
		n.T.Errorf("clean up: %v", err)
	}
}
