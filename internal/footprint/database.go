//go:build linux

package footprint

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Forget unmaps the program's code and constants: what is used is mapped again at the next touch, what only the start or
// the work before used stays away. This frees no memory by itself: the pages are clean ones of the page cache, which the
// kernel may take back before and after. But it counts them as this process's, with all their neighbours that it maps
// unasked, and keeps mapped ones longer than others; now the figure says what a process at rest uses. The runtime does
// without: shims have the same pages mapped, whose shares would grow.
//
// It is a hint. Where the kernel does not take it, all stays as it is.
func Forget() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range clean(string(smaps), program) {
		// There is no slice to give to unix.Madvise: nobody allocated this.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// clean finds the mappings of a file that are just as the file is: nobody can write to them, and no page was replaced by one
// of this process's own (by a relocation or a debugger's breakpoint), which would be lost.
func clean(smaps, file string) []mapping {
	var out []mapping
	var m mapping
	ours := false
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if name, isField := strings.CutSuffix(fields[0], ":"); isField {
			if ours && name == "Anonymous" && fields[1] == "0" {
				out = append(out, m)
			}
			continue
		}
		m, ours = mapping{}, false
		from, to, _ := strings.Cut(fields[0], "-")
		first, err := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		at := strings.IndexByte(line, '/')
		if err != nil || err2 != nil || at < 0 || strings.TrimSuffix(line[at:], "\n") != file {
			continue
		}
		m, ours = mapping{uintptr(first), uintptr(end)}, fields[1] == "r--p" || fields[1] == "r-xp"
	}
	return out
}

// unmapShared has the kernel take back what is mapped of files that others may write: the databases of the log, the worker and
// containerd, which grow as tasks come and go. Unlike MADV_DONTNEED this loses nothing should the database map its file anew
// at this moment and the addresses be another's.
func unmapShared() {
	smaps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for _, m := range shared(string(smaps)) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_PAGEOUT)
	}
}

// shared finds the mappings of files that are shared and read only.
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
