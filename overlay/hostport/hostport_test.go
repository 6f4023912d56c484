//go:build linux

package hostport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

// TestReserve_ClientsAreRefused checks that a client which connects before the rules exist is
// refused and does not wait for a socket that never answers.
func TestReserve_ClientsAreRefused(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(pin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(pin); err != nil {
			t.Error(err)
		}
	})
	ns, err := netns.Open(pin)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), {}} {
		if err := ns.Do(func() error { return reserveAndListen(ip) }); err != nil {
			t.Errorf("hold %v: %v", ip, err)
		}
	}
}

func reserveAndListen(ip netip.Addr) error {
	const port = 8080
	at := netip.AddrPortFrom(ip, port).String()
	if !ip.IsValid() {
		at = "127.0.0.1:8080"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	_, err = Reserve("tcp", ip, port)
	if !errdefs.IsAlreadyExists(err) {
		err = fmt.Errorf("a port that a program listens at: got %w, want already exists", err)
	} else {
		err = nil
	}
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}

	h, err := Reserve("tcp", ip, port)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := net.Dial("tcp", at); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("a client gets %w, want to be refused", err)
	}
	if err := h.Listen(); err != nil {
		return err
	}
	if _, err := net.Listen("tcp", at); !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("another program listens: %w", err)
	}
	return nil
}
