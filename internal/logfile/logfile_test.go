//go:build unix

package logfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"swarm/internal/logfile"
)

func open(t *testing.T, name string, limit int64, streams ...int) *logfile.File {
	t.Helper()
	f, err := logfile.Open(name, limit, streams...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFile_IsSetAsideAtTheLimit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := open(t, name, 20)
	for i := range 5 {
		fmt.Fprintf(f, "line %d\n", i)
	}
	if got, want := read(t, name), "line 3\nline 4\n"; got != want {
		t.Errorf("log: got %q, want %q", got, want)
	}
	if got, want := read(t, name+".1"), "line 1\nline 2\n"; got != want {
		t.Errorf("former log: got %q, want %q", got, want)
	}
	long := strings.Repeat("x", 100)
	fmt.Fprintln(f, long)
	if got := read(t, name); got != long+"\n" {
		t.Errorf("a line longer than the limit: got %q", got)
	}
}

func TestFile_StreamsFollow(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	name := filepath.Join(t.TempDir(), "log")
	f := open(t, name, 10, int(w.Fd()))
	for _, line := range []string{"first\n", "second\n"} {
		if _, err := f.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(int(w.Fd()), []byte("!\n")); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := read(t, name), "second\n!\n"; got != want {
		t.Errorf("log: got %q, want %q", got, want)
	}
}

func TestFile_WritesOnWhenItCannotBeSetAside(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if err := os.MkdirAll(filepath.Join(name+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := open(t, name, 10)
	for range 4 {
		if _, err := f.Write([]byte("123456\n")); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, name); len(got) != 4*7 {
		t.Errorf("lines are lost: got %q", got)
	}
}
