//go:build linux

// Package footprint returns memory that a process no longer uses to the kernel when the process
// becomes idle. Go also returns heap memory, but over minutes, and only what a garbage collection
// has freed; an idle process runs no collection. The daemon and the runtime call Keep.
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
	// period is the interval at which Keep measures the CPU time of the process.
	period = 10 * time.Second
	// idleLimit is the most CPU time that an idle process uses in a period.
	idleLimit = period / 25
)

// gcPercent is the growth of the heap, in percent, after which Go collects garbage. It is half of
// Go's default. After a burst of work, the process keeps about as much memory as at the peak of the
// heap, because most pages of the heap still have an object that is in use. A lower peak therefore
// saves memory later too. The value adds no measurable latency to the creation and removal of a
// service.
const gcPercent = 50

// Keep lowers the garbage collection threshold of Go, unless GOGC is set, and calls trim whenever
// the process becomes idle after work or after its start. It returns when ctx ends.
func Keep(ctx context.Context, trim func()) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	worked, last := true, cpuTime()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch now := cpuTime(); {
		case now-last > idleLimit:
			worked = true
		case worked:
			worked = false
			trim()
		}
		last = cpuTime()
	}
}

// Free returns unused heap memory and the pages of memory-mapped databases to the kernel. It
// collects garbage twice, because the content of a sync.Pool survives the first collection: after
// an image pull, the buffers of gRPC and of copies take megabytes.
func Free() {
	runtime.GC()
	debug.FreeOSMemory()
	pageOutDatabases()
}

// cpuTime returns the CPU time of this process.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
