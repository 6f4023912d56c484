//go:build linux

package shim

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A shim does not wait for somebody to read its log. It writes to the pipe once somebody does.
func TestLogPipe_WaitsForNobody(t *testing.T) {
	t.Chdir(t.TempDir())
	stderr, err := unix.Dup(unix.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Dup3(stderr, unix.Stderr, 0) }()
	l := &logPipe{}
	write := func(text string) {
		t.Helper()
		if n, err := l.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%s: got %d, %v", text, n, err)
		}
	}
	write("there is no pipe\n")
	if err := unix.Mkfifo("log", 0o600); err != nil {
		t.Fatal(err)
	}
	write("nobody reads it\n")
	r, err := os.OpenFile("log", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	write("read\n")
	buf := make([]byte, 100)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "read\n" {
		t.Errorf("got %q, %v, want the last line", buf[:n], err)
	}
	_ = r.Close()
	write("the reader is gone\n")
}
