//go:build linux

// Package footprint gives memory that a process no longer uses back to the kernel once the process
// is at rest. Go gives heap back too, but over minutes, and only what a garbage collection has
// freed; a process at rest runs none. The daemon and the runtime call Keep.
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

// Keep collects garbage earlier than Go does by itself, unless GOGC is set, and calls trim whenever
// the process comes to rest after work or after its start. It returns when ctx ends.
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

// Free gives unused heap and the pages of memory-mapped databases back to the kernel. It collects
// garbage twice, because what a sync.Pool holds survives the first collection: the buffers of gRPC
// and of copies take megabytes after an image has been pulled.
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
