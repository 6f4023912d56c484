//go:build linux

// Package footprint gives memory that is no longer used back to the kernel once a process has come to rest: heap, which Go
// gives back too, but over minutes, and only what garbage collections have freed, which a process at rest has none of; and
// what its work has mapped of the program's file. The daemon and the runtime call Keep. It runs no goroutine.
package footprint

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	// period is how often Keep looks whether the process works.
	period = 10 * time.Second
	// quiet is how much processor time a process at rest uses in a period, at most.
	quiet = period / 25
)

// garbage is by how many percent the heap grows before Go collects garbage, half of what Go does by itself. What a burst of
// work leaves behind is as large as the heap was at its peak: some objects stay in most of its pages. Of the latency of a
// service's creation and removal it costs nothing that can be measured.
const garbage = 50

// Keep has garbage collected earlier than Go does by itself, unless GOGC says otherwise, and calls trim (Free, and in the
// daemon Forget) whenever the process comes to rest after work, its start for one, until ctx ends.
func Keep(ctx context.Context, trim func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
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
			trim()
		}
		last = used()
	}
}

// Free gives heap back, and what is mapped of databases. What a sync.Pool holds (the buffers of gRPC and of copies, megabytes after an image has been
// through) survives one collection: the first one here makes it garbage, the second takes it.
func Free() {
	runtime.GC()
	debug.FreeOSMemory()
	unmapShared()
}

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
