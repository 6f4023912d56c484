//go:build linux

// Package footprint gives back memory that only a process's start needed. Initialising some 700 packages touches most of
// the program's file once; kept mapped, these pages count for every process that runs it, a shim for every ten containers
// among them, and the kernel reclaims them last.
//
// It refuses anything that could be written to. The daemon, the runtime and shims call Keep. It runs no goroutine.
package footprint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// period is how often Keep looks whether the process works.
	period = 10 * time.Second
	// quiet is how much processor time a process at rest uses in a period, at most.
	quiet = period / 100
)

// Keep trims whenever the process comes to rest after work, its start for one, until ctx ends. What goes wrong is told to
// report.
func Keep(ctx context.Context, report func(error)) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	worked, last := true, used()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch now := used(); {
		case now-last > quiet:
			worked = true
		case worked:
			worked = false
			if err := Trim(); err != nil {
				report(err)
			}
		}
		last = used()
	}
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Trim returns unused heap to the kernel and unmaps the pages of the program's code and constants. Those that are needed
// come back by themselves, from the page cache.
func Trim() error {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	self = strings.TrimSuffix(self, " (deleted)") // after an upgrade
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("give memory back: %w", err)
	}
	for line := range bytes.Lines(maps) {
		if start, size, ok := constant(string(line), self); ok {
			// The mapping is not Go's: its address is all that there is of it, so the call is made by number.
			if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, start, size, syscall.MADV_DONTNEED); errno != 0 {
				err = errors.Join(err, fmt.Errorf("give memory back: madvise: %w", errno))
			}
		}
	}
	return err
}

// constant reads a line of /proc/self/maps; ok: it is a private mapping of the program that nobody can have written to.
func constant(line, program string) (start, size uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != program || fields[1] != "r--p" && fields[1] != "r-xp" {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	a, aerr := strconv.ParseUint(from, 16, 64)
	b, berr := strconv.ParseUint(to, 16, 64)
	if aerr != nil || berr != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
