//go:build linux

package footprint

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is a range of memory addresses.
type mapping struct{ from, to uintptr }

// pageOutDatabases tells the kernel that the pages of memory-mapped databases are not needed now:
// those of the log, the worker and containerd, which grow as tasks come and go. It uses
// MADV_PAGEOUT, not MADV_DONTNEED: if a database maps its file again at this moment and the
// addresses then belong to another mapping, MADV_PAGEOUT loses no data. On a kernel before 5.4 it
// has no effect.
func pageOutDatabases() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, m := range databaseMappings(string(maps)) {
		// unix.Madvise needs the slice of a mapping, which only the database has.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_PAGEOUT)
	}
}

// databaseMappings returns the shared read-only mappings of files in maps, the text of
// /proc/PID/maps.
func databaseMappings(maps string) []mapping {
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
