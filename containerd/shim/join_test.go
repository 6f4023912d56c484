//go:build linux

package shim

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"

	"swarm/containerd/layout"
)

// starts counts how many shims are started.
type starts struct {
	shim.Shim
	n int
}

func (s *starts) Start(context.Context, *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	s.n++
	return &bootapi.BootstrapResult{Address: "new"}, nil
}

// A shim that is slow to accept a connection, because its queue is full, is still the shim of the
// group.
func TestStart_JoinsTheGroupsShimHoweverBusy(t *testing.T) {
	dir, err := os.MkdirTemp("", "sh") // The name is short, because it is part of the path of a socket.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Chdir(dir)
	if err := os.WriteFile("config.json", []byte(`{"annotations":{"`+layout.GroupAnnotation+`":"g1"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(t.Context(), "swarm")
	opts := &bootapi.BootstrapParams{InstanceID: "c2", SocketDir: &dir, ContainerdGrpcAddress: "/run/ctd.sock"}
	inner := &starts{}
	if got, err := (shimManager{inner}).Start(ctx, opts); err != nil || got.Address != "new" {
		t.Fatalf("nobody listens: got %v, %v; want a new shim", got, err)
	}
	address, err := groupAddress(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	l := listenQueueing(t, strings.TrimPrefix(address, "unix://"))
	first, err := net.Dial("unix", l.Addr().String()) // The queue is full now.
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := net.Dial("unix", l.Addr().String()); err == nil {
		t.Fatal("the queue is not full")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 {
			if c, err := l.Accept(); err == nil {
				_ = c.Close()
			}
		}
	}()
	got, err := (shimManager{inner}).Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	if got.Address != address || inner.n != 1 {
		t.Errorf("got address %s and %d shims started, want %s and 1", got.Address, inner.n, address)
	}
	_ = l.Close()
	<-done
}

// listenQueueing listens with the shortest possible queue.
func listenQueueing(t *testing.T, path string) net.Listener {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
