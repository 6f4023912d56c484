// Package runc owns the runc that swarm carries: the pinned module, built
// static with seccomp by `make build` and embedded. It refuses nothing and runs
// no goroutine; package binary unpacks the program, `swarm version` prints Version.
//
// runc is a main package and cannot be linked in, hence a program within a
// program. A build without the tag embedrunc carries none, and uses the host's.
package runc

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Embedded returns the program, nil when this build carries none. It must not be written to.
func Embedded() []byte {
	if program == "" {
		return nil
	}
	return unsafe.Slice(unsafe.StringData(program), len(program))
}

// Forget gives the pages back that reading Embedded has mapped, 10 MB that a daemon needs once in
// its life. They can be read again. It fails only where the kernel does not take the hint.
func Forget() error {
	data := Embedded()
	page := os.Getpagesize()
	first := -int(uintptr(unsafe.Pointer(unsafe.SliceData(data)))) & (page - 1) // The ends share their pages with others.
	if len(data) < first+page {
		return nil
	}
	return unix.Madvise(data[first:first+(len(data)-first)&^(page-1)], unix.MADV_DONTNEED)
}

// Version is the embedded runc's, "" without one.
func Version() string {
	version, _, _ := strings.Cut(strings.TrimSpace(about), " ")
	return strings.TrimPrefix(version, "v")
}

// Seccomp reports whether the embedded runc can apply seccomp profiles. It
// cannot when libseccomp was absent where it was built.
func Seccomp() bool {
	_, tags, _ := strings.Cut(strings.TrimSpace(about), " ")
	return slices.Contains(strings.Fields(tags), "seccomp")
}

// Host finds the host's runc, for builds that carry none (ErrNotFound).
func Host() (string, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("this build of swarm carries no runc and the host has none: use a release, or `make build`: %w", errdefs.ErrNotFound)
	}
	return path, nil
}
