// Package runc owns the runc that swarm carries: the pinned module, built
// static with seccomp by `make build` and embedded. It refuses nothing and runs
// no goroutine; package binary unpacks the program, `swarm version` prints Tags.
//
// runc is a main package and cannot be linked in, hence a program within a
// program. A build without the tag embedrunc carries none, and uses the host's.
package runc

import (
	"fmt"
	"os/exec"
	"strings"

	"github.com/containerd/errdefs"
)

// Embedded returns the program, nil when this build carries none.
func Embedded() []byte { return program }

// Tags are the build tags of the embedded runc: "seccomp netgo osusergo", or
// without "seccomp" where libseccomp was absent at build time; "" without runc.
func Tags() string { return strings.TrimSpace(tags) }

// Seccomp reports whether the embedded runc can apply seccomp profiles.
func Seccomp() bool {
	for tag := range strings.FieldsSeq(tags) {
		if tag == "seccomp" {
			return true
		}
	}
	return false
}

// Host finds the host's runc, for builds that carry none (ErrNotFound).
func Host() (string, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return "", fmt.Errorf("this build of swarm carries no runc and the host has none: use a release, or `make build`: %w", errdefs.ErrNotFound)
	}
	return path, nil
}
