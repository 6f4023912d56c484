//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

func runRuntime([]string) error {
	return fmt.Errorf("runtime: containers run on Linux only, this is %s: %w", runtime.GOOS, errdefs.ErrNotImplemented)
}
