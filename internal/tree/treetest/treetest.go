//go:build linux

// Package treetest makes file trees like those of a hostile container. Tests call it. It runs no
// goroutine.
package treetest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Nest makes a chain of nested folders with a file in each. It keeps at most two descriptors open.
func Nest(t *testing.T, dir string, levels int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for i := 0; i < levels && err == nil; i++ {
		if err = unix.Mkdirat(at, "d", 0o700); err != nil {
			break
		}
		var next int
		if next, err = unix.Openat(at, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			break
		}
		_ = unix.Close(at)
		at = next
		if err = unix.Mknodat(at, "f", unix.S_IFREG|0o600, 0); err != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(at)
}

// FewDescriptors limits the test process to 128 descriptors until the test ends.
func FewDescriptors(t *testing.T) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 128, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
}
