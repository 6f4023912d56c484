//go:build linux

package netns_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/overlay/netns"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func TestCreate_PinsASeparateNamespaceWithLoopback(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "a.ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Delete(path) })
	if err := netns.Create(path); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Fatalf("second create: got %v, want already exists", err)
	}
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	here, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if ns.ID() == here.ID() {
		t.Fatal("the pinned namespace is the test's own")
	}
	err = ns.Do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		return l.Close()
	})
	if err != nil {
		t.Fatalf("listen on the new loopback: %v", err)
	}
}

func TestSysctl_IsTheNamespacesOwn(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "a.ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Delete(path) })
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	before, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0", "1"} {
		if err := ns.SetSysctls(map[string]string{"ipv4/ip_forward": want}); err != nil {
			t.Fatal(err)
		}
		if got, err := ns.Sysctl("ipv4.ip_forward"); err != nil || got != want {
			t.Fatalf("ip_forward: got %q, %v, want %q", got, err, want)
		}
	}
	after, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil || string(after) != string(before) {
		t.Fatalf("the machine's ip_forward went from %q to %q (%v)", before, after, err)
	}
	if err := ns.SetSysctls(map[string]string{"ipv4.no_such_key": "1"}); err == nil {
		t.Fatal("an unknown sysctl was accepted")
	}
}

func TestDelete_IsIdempotentAndTakesPlainFiles(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "a.ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if netns.Pinned(path) {
		t.Fatal("a plain file counts as a pin")
	}
	if _, err := netns.Open(path); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatalf("open a plain file: got %v, want not found", err)
	}
	if err := netns.Create(path); err != nil {
		t.Fatalf("create over a left-over file: %v", err)
	}
	for range 2 {
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Fatalf("the pin file is still there: %v", err)
	}
}
