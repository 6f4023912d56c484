//go:build linux

package footprint

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// unmapShared tells the kernel that the pages of memory-mapped databases are not needed now: those
// of the log, of the worker and of containerd, which grow as tasks come and go. Unlike
// MADV_DONTNEED, MADV_PAGEOUT loses no data if a database maps its file anew at this moment and the
// addresses become another mapping's. It is a hint: on a kernel before 5.4 nothing happens.
func unmapShared() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, m := range shared(string(maps)) {
		// There is no slice to give to unix.Madvise: the databases hold theirs.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_PAGEOUT)
	}
}

// shared finds the mappings of files that are shared and read only. maps is the text of
// /proc/PID/maps.
func shared(maps string) []mapping {
	var out []mapping
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] != "r--s" || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		first, err := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err == nil && err2 == nil {
			out = append(out, mapping{uintptr(first), uintptr(end)})
		}
	}
	return out
}
