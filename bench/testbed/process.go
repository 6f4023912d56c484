package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"swarm/dev"
)

// Process is a process of a host itself: the daemon, the runtime or a shim. Processes in containers
// are not included.
type Process struct {
	PID  int
	Kind Kind
}

// Kind is the part of a host that a process is.
type Kind string

// The kinds of processes.
const (
	Daemon  Kind = "daemon"
	Runtime Kind = "runtime"
	Shim    Kind = "shim"
)

// Processes finds the processes of a host by their command lines, which name the host's folders.
func Processes(h dev.Host) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || !bytes.Contains(line, []byte(h.StateDir)) && !bytes.Contains(line, []byte(h.RunDir+"/")) {
			continue
		}
		args := strings.Split(string(line), "\x00")
		switch {
		case pid == h.PID:
			out = append(out, Process{pid, Daemon})
		case len(args) > 1 && args[1] == "runtime":
			out = append(out, Process{pid, Runtime})
		case strings.Contains(filepath.Base(args[0]), "shim"):
			out = append(out, Process{pid, Shim})
		}
	}
	if !slices.ContainsFunc(out, func(p Process) bool { return p.Kind == Runtime }) {
		return nil, fmt.Errorf("no runtime process of %s", h.Name)
	}
	return out, nil
}

// Memory adds up a field of smaps_rollup, Rss or Pss, of the processes of some kinds, in MB.
func Memory(all []Process, field string, kinds ...Kind) (mb float64, err error) {
	for _, p := range all {
		if !slices.Contains(kinds, p.Kind) {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == field+":" {
				kb, err := strconv.ParseFloat(fields[1], 64)
				if err != nil {
					return 0, err
				}
				mb += kb * 1024 / 1e6
			}
		}
	}
	return mb, nil
}

// CPUTime returns the processor time that processes have used so far, in steps of 10 ms.
func CPUTime(all []Process) (time.Duration, error) {
	var ticks int64
	for _, p := range all {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return 0, fmt.Errorf("process %d has ended", p.PID)
		}
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, i := range []int{11, 12} { // utime, stime (proc(5) counts from pid = 1)
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// BytesSent returns the number of bytes that a host's interfaces have sent, without the loopback.
func BytesSent(p *dev.Playground, host string) (total int64, err error) {
	err = p.Do(host, func() error {
		// thread-self: /proc/net is that of the process's first thread, which is in another
		// namespace.
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, rest, ok := strings.Cut(line, ":")
			fields := strings.Fields(rest)
			if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 9 {
				continue
			}
			n, err := strconv.ParseInt(fields[8], 10, 64)
			if err != nil {
				return err
			}
			total += n
		}
		return nil
	})
	return total, err
}
