// Package runc owns the runc that swarm carries: the version that go.mod names, built as a static
// program with seccomp by `make build` and embedded. It also gives runc's errors a class.
//
// runc is a main package and cannot be linked as a library, so it is a program inside the program.
// A build without the tag embedrunc carries none, and uses the host's. Package binary unpacks the
// program, package containerd classifies errors, and `swarm version` prints Version. The package
// runs no goroutine.
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

// Embedded returns the program, or nil if this build carries none. The bytes must not be changed.
func Embedded() []byte {
	if program == "" {
		return nil
	}
	return unsafe.Slice(unsafe.StringData(program), len(program))
}

// Forget gives back the memory of the pages that reading Embedded has mapped: 10 MB that a daemon
// needs once. The pages can be read again. It returns an error only if the kernel refuses the hint.
func Forget() error {
	data := Embedded()
	page := os.Getpagesize()
	first := -int(uintptr(unsafe.Pointer(unsafe.SliceData(data)))) & (page - 1) // The first and last page are shared with other data.
	if len(data) < first+page {
		return nil
	}
	return unix.Madvise(data[first:first+(len(data)-first)&^(page-1)], unix.MADV_DONTNEED)
}

// Version returns the version of the embedded runc, or "" if this build carries none.
func Version() string {
	version, _, _ := strings.Cut(strings.TrimSpace(about), " ")
	return strings.TrimPrefix(version, "v")
}

// Seccomp reports whether the embedded runc can apply seccomp profiles. It cannot if libseccomp was
// missing when it was built.
func Seccomp() bool {
	_, tags, _ := strings.Cut(strings.TrimSpace(about), " ")
	return slices.Contains(strings.Fields(tags), "seccomp")
}

// Host returns the path of the host's runc, for builds that carry none. ErrNotFound: the host has
// none either.
func Host() (string, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("this build of swarm carries no runc and the host has none: use a release, or `make build`: %w", errdefs.ErrNotFound)
	}
	return path, nil
}
