//go:build linux

package vip_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"swarm/overlay/vip"
)

func TestProgram_BackendsShareAServiceAndSeeTheClient(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	w.program(service(1, 2, 3, 4), service(2, 5), service(3, 1))
	w.serve(w.client, 81)
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		var seen []string
		for range 60 {
			got, err := w.ask("tcp", addr(20001), 80)
			if err != nil {
				t.Fatal(err)
			}
			backend, client, _ := strings.Cut(got, " ")
			if client != addr(1).String() {
				t.Fatalf("%s is asked by %s, want %s", backend, client, addr(1))
			}
			seen = append(seen, backend)
		}
		slices.Sort(seen)
		if diff := cmp.Diff([]string{addr(2).String(), addr(3).String(), addr(4).String()}, slices.Compact(seen)); diff != "" {
			t.Errorf("who answered (-want +got):\n%s", diff)
		}
		w.want("tcp", addr(20002), 80, fmt.Sprint(addr(5), " ", addr(1)))
		// A container can connect to itself if it is the backend.
		w.want("tcp", addr(20003), 81, fmt.Sprint(addr(1), " ", addr(1)))
	}
}

func TestProgram_ManyBackendsAllTakePart(t *testing.T) {
	w := newWorld(t)
	numbers := make([]int, 0, 40)
	for n := 100; n < 140; n++ {
		numbers = append(numbers, n)
	}
	w.address(w.server, numbers...)
	w.serve(w.server, 80)
	w.program(service(1, 100, 101))
	w.program(service(1, numbers...))
	seen := map[string]bool{}
	for range 600 {
		got, err := w.ask("tcp", v4(20001), 80)
		if err != nil {
			t.Fatal(err)
		}
		seen[got] = true
	}
	if len(seen) != len(numbers) {
		t.Errorf("%d of %d backends answered 600 requests", len(seen), len(numbers))
	}
	w.program(service(1, 101))
	w.want("tcp", v4(20001), 80, fmt.Sprint(v4(101), " ", v4(1)))
}

// Each connection is counted once, where it begins, whichever direction it has.
func TestConnections_AreCountedByInterface(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	w.serveUDP(w.server, 53, v4(2))
	w.serve(w.client, 80)
	counts := func(want map[string]vip.Connections) {
		t.Helper()
		got, err := w.balancer.Connections(t.Context(), w.path)
		delete(got, "lo") // A refusal is sent there.
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	}
	counts(nil)
	w.program(service(1, 2), service(2))
	counts(map[string]vip.Connections{})
	for range 3 {
		w.want("tcp", v4(20001), 80, fmt.Sprint(v4(2), " ", v4(1)))
	}
	w.want("tcp", v6(20001), 80, fmt.Sprint(v6(2), " ", v6(1)))
	w.want("tcp", v4(3), 80, fmt.Sprint(v4(3), " ", v4(1)))
	c, err := w.dial("udp", v4(20001), 53)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.ask(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.ask("tcp", v4(20002), 80); err == nil {
		t.Error("a service without backends answers")
	}
	w.program(service(1, 2, 3), service(2))
	err = w.server.Do(func() error {
		c, err := net.Dial("tcp", netip.AddrPortFrom(v4(1), 80).String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	counts(map[string]vip.Connections{"eth0": {Accepted: 1, Made: 6}})
}

func TestProgram_WithoutBackendsConnectionsAreRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	w.program(service(1), service(2, 2))
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		fastest := time.Hour
		for range 3 { // a busy machine may be slow, a packet that is dropped is slow each time
			start := time.Now()
			if _, err := w.ask("tcp", addr(20001), 80); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("tcp to a service without backends: %v, want refused", err)
			}
			// The sender's own kernel reports first that it dropped the datagram, and only then the
			// refusal.
			if _, err := w.ask("udp", addr(20001), 80); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EPERM) {
				t.Errorf("udp to a service without backends: %v, want refused", err)
			}
			fastest = min(fastest, time.Since(start))
		}
		if fastest > time.Second {
			t.Errorf("refused after %s, want at once", fastest)
		}
	}
	w.program(service(1, 3), service(2))
	w.want("tcp", v4(20001), 80, fmt.Sprint(v4(3), " ", v4(1)))
	w.want("tcp", v6(20001), 80, fmt.Sprint(v6(3), " ", v6(1)))
	if _, err := w.ask("tcp", v4(20002), 80); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the last backend has left: %v, want refused", err)
	}
}

func TestProgram_AConnectionDrainsAndIsResetWhenItsBackendIsGone(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	w.program(service(1, 2))
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		w.program(service(1, 2))
		c, err := w.dial("tcp", addr(20001), 80)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []func(){
			func() {},
			func() { w.program(service(1, 2, 3)) },
			func() { w.program(service(1, 3)) },
			// A new process has no state. It finds the table as it was, or flushed.
			func() { w.restart(); w.program(service(1, 3)) },
			func() { w.flush(); w.restart(); w.program(service(1, 3)) },
			func() { w.program() },
		} {
			step()
			if got, err := c.ask(); err != nil || got != fmt.Sprint(addr(2), " ", addr(1)) {
				t.Fatalf("an established connection: %q, %v", got, err)
			}
		}
		for _, next := range []vip.Service{service(1, 3), service(1)} {
			w.program(service(1, 2))
			if c, err = w.dial("tcp", addr(20001), 80); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ask(); err != nil {
				t.Fatal(err)
			}
			w.program(next)
			if err := w.balancer.Reset(t.Context(), w.path, []netip.Addr{v4(2), v6(2)}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ask(); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, io.EOF) {
				t.Errorf("connection to a backend that is gone, %d others: %v, want reset", len(next.Backends), err)
			}
		}
	}
}

func TestProgram_MendsATableThatWasFlushed(t *testing.T) {
	w := newWorld(t)
	w.serve(w.server, 80)
	w.program(service(1, 2))
	w.flush()
	w.program(service(1, 3))
	w.want("tcp", v4(20001), 80, fmt.Sprint(v4(3), " ", v4(1)))
}

func TestProgram_Refusals(t *testing.T) {
	w := newWorld(t)
	if err := w.balancer.Program(t.Context(), w.path, []vip.Service{service(1, 2), service(1, 3)}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("one address of two services: %v, want invalid argument", err)
	}
	if err := w.balancer.Program(t.Context(), w.path+"x", nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no such namespace: %v, want not found", err)
	}
}

func TestForget_LetsTheNamespaceEnd(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "short.ns")
	ns := w.namespace(path)
	if err := w.balancer.Program(t.Context(), path, []vip.Service{service(1, 2)}); err != nil {
		t.Fatal(err)
	}
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := open()
	if err := w.balancer.Forget(path); err != nil {
		t.Fatal(err)
	}
	if after := open(); after != before-1 {
		t.Errorf("%d open files after Forget, %d before, want one less", after, before)
	}
	if err := w.balancer.Forget(path); err != nil {
		t.Errorf("again: %v", err)
	}
	_ = ns
}

func TestProgram_PingIsAnswered(t *testing.T) {
	w := newWorld(t)
	w.program(service(1, 2))
	if err := w.client.SetSysctls(map[string]string{"ipv4.ping_group_range": "0 2147483647"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		domain, proto int
		to            unix.Sockaddr
		request       byte
	}{
		{unix.AF_INET, unix.IPPROTO_ICMP, &unix.SockaddrInet4{Addr: v4(20001).As4()}, 8},
		{unix.AF_INET6, unix.IPPROTO_ICMPV6, &unix.SockaddrInet6{Addr: v6(20001).As16()}, 128},
	} {
		err := w.client.Do(func() error {
			fd, err := unix.Socket(p.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, p.proto)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
				return err
			}
			if err := unix.Sendto(fd, []byte{p.request, 0, 0, 0, 0, 0, 0, 1}, 0, p.to); err != nil {
				return err
			}
			_, _, err = unix.Recvfrom(fd, make([]byte, 64), 0)
			return err
		})
		if err != nil {
			t.Errorf("ping (family %d): %v", p.domain, err)
		}
	}
}
