//go:build linux

package lock

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const holdEnv = "SWARM_TEST_HOLD"

// TestMain is the other process, because a process is not blocked by its own locks.
func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		l, err := Acquire(path)
		if err != nil {
			os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed or let go
		l.Release()
		return
	}
	os.Exit(m.Run())
}

func TestLock_IsHeldByOneProcessAndGoesWithIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if pid, err := Holder(path); pid != 0 || err != nil {
		t.Fatalf("holder before there is a file: got %d, %v, want 0", pid, err)
	}
	first, said := hold(t, path)
	if said != "held" {
		t.Fatalf("first process: got %q, want held", said)
	}
	if pid, err := Holder(path); pid != first.Process.Pid || err != nil {
		t.Errorf("holder: got %d, %v, want %d", pid, err, first.Process.Pid)
	}
	if _, said := hold(t, path); !strings.Contains(said, strconv.Itoa(first.Process.Pid)) {
		t.Errorf("second process: got %q, want a refusal that names process %d", said, first.Process.Pid)
	}
	if _, err := Acquire(path); !errdefs.IsAlreadyExists(err) {
		t.Errorf("acquire what is held: got %v, want already exists", err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if pid, err := Holder(path); pid != 0 || err != nil {
		t.Errorf("holder after its end: got %d, %v, want 0", pid, err)
	}
	l, err := Acquire(path)
	if err != nil {
		t.Fatalf("acquire after its end: %v", err)
	}
	l.Release()
}

func hold(t *testing.T, path string) (cmd *exec.Cmd, said string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, strings.TrimSuffix(line, "\n")
}
