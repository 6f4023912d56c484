//go:build linux

package dev_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"swarm/dev"
	"swarm/internal/eventually"
	"swarm/overlay/vswitch"
)

// TestMain lets the test binary stand in for the programs that run inside hosts. Under
// the race detector they would each wait a second before they end.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if role := os.Getenv("DEV_TEST_ROLE"); role == "echo" {
		os.Exit(echo(os.Args[1]))
	}
	if len(os.Args) > 1 && standIn(os.Args[1:]) {
		return
	}
	os.Exit(m.Run())
}

// echo answers every line of every TCP connection with its own hostname.
func echo(addr string) int {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	name, _ := os.Hostname()
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				fmt.Fprintln(c, name)
			}
		}()
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
}

// newLab has hosts a, b and c, with an echo server on port 7 of each.
func newLab(t *testing.T) *dev.Lab {
	t.Helper()
	needRoot(t)
	lab, err := dev.NewLab(dev.LabConfig{
		Dir: filepath.Join(t.TempDir(), "lab"), Name: fmt.Sprint("lab", os.Getpid(), t.Name()), Subnet: netip.MustParsePrefix("10.212.17.0/24"), MTU: 1400,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, name := range []string{"a", "b", "c"} {
		if err := lab.AddHost(name, netip.AddrFrom4([4]byte{10, 212, 17, byte(11 + i)})); err != nil {
			t.Fatal(err)
		}
		startEcho(t, lab, name)
	}
	return lab
}

func startEcho(t *testing.T, lab *dev.Lab, host string) {
	t.Helper()
	for _, port := range []string{"7", "8"} {
		cmd := exec.Command("/proc/self/exe", ":"+port)
		cmd.Env = append(os.Environ(), "DEV_TEST_ROLE=echo")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.Start(host, cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatalf("echo server on %s: %q, %v", host, line, err)
		}
	}
}

// ask connects from a host ("" is the machine) and returns the name that answers.
func ask(lab *dev.Lab, from, addr string, patience time.Duration) (string, error) {
	var got string
	dial := func() error {
		c, err := net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, "who\n"); err != nil {
			return err
		}
		got, err = bufio.NewReader(c).ReadString('\n')
		return err
	}
	var err error
	if from == "" {
		err = dial()
	} else {
		err = lab.Do(from, dial)
	}
	return strings.TrimSpace(got), err
}

func TestLab_HostsReachEachOtherAndTheMachineReachesThem(t *testing.T) {
	lab := newLab(t)
	for _, tt := range []struct{ from, to, want string }{
		{"a", "10.212.17.12:7", "b"},
		{"c", "10.212.17.11:7", "a"},
		{"b", "127.0.0.1:7", "b"},
		{"", "10.212.17.13:7", "c"},
	} {
		if got, err := ask(lab, tt.from, tt.to, 10*time.Second); err != nil || got != tt.want {
			t.Errorf("%q asks %s: got %q, %v, want %q", tt.from, tt.to, got, err, tt.want)
		}
	}
	var mtu int
	if err := lab.Do("a", func() error {
		i, err := net.InterfaceByName("eth0")
		if err == nil {
			mtu = i.MTU
		}
		return err
	}); err != nil || mtu != 1400 {
		t.Errorf("mtu of a: got %d, %v, want 1400", mtu, err)
	}
}

func TestLab_Faults(t *testing.T) {
	lab := newLab(t)
	reach := func(from, to string, want bool) {
		t.Helper()
		patience := 300 * time.Millisecond
		if want {
			patience = 10 * time.Second
		}
		if _, err := ask(lab, from, to, patience); (err == nil) != want {
			t.Errorf("%q reaches %s: %v, want %v", from, to, err, want)
		}
	}
	pair := []vswitch.Fault{{From: "a", To: "b"}, {From: "b", To: "a"}}
	if err := lab.SetFaults(pair...); err != nil {
		t.Fatal(err)
	}
	reach("a", "10.212.17.12:7", false)
	reach("a", "10.212.17.13:7", true)
	reach("", "10.212.17.12:7", true)

	if err := lab.SetFaults(vswitch.Fault{To: "c", Protocol: "tcp", Port: 8}); err != nil {
		t.Fatal(err)
	}
	reach("a", "10.212.17.12:7", true)
	reach("a", "10.212.17.13:7", true)
	reach("a", "10.212.17.13:8", false)
	reach("", "10.212.17.13:8", false)

	if err := lab.SetFaults(vswitch.Fault{From: "a", To: dev.Machine}); err != nil {
		t.Fatal(err)
	}
	reach("", "10.212.17.11:7", false)
	reach("b", "10.212.17.11:7", true)

	if err := lab.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if err := lab.SetCable("b", false); err != nil {
		t.Fatal(err)
	}
	reach("a", "10.212.17.12:7", false)
	reach("b", "127.0.0.1:7", true)
	if err := lab.SetCable("b", true); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "b is reached again", func() bool {
		_, err := ask(lab, "a", "10.212.17.12:7", 300*time.Millisecond)
		return err == nil
	})
	if err := lab.SetFaults(vswitch.Fault{From: "nobody"}); err == nil {
		t.Error("a fault of an unknown host was accepted")
	}
}

func TestLab_CloseLeavesNothing(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "lab")
	cfg := dev.LabConfig{Dir: dir, Name: fmt.Sprint("lab", os.Getpid(), t.Name()), Subnet: netip.MustParsePrefix("10.212.18.0/24")}
	lab, err := dev.NewLab(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.AddHost("a", netip.MustParseAddr("10.212.18.11")); err != nil {
		t.Fatal(err)
	}
	if !addressed(t, cfg.Subnet) {
		t.Error("the machine has no address on the switch")
	}
	for range 2 {
		if err := lab.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if addressed(t, cfg.Subnet) {
		t.Error("the machine still has an address on the switch")
	}
}

// addressed reports whether an interface of the machine has an address of the subnet: other
// interfaces are other tests'.
func addressed(t *testing.T, subnet netip.Prefix) bool {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && subnet.Contains(p.Addr())
	})
}
