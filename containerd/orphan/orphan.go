//go:build linux

// Package orphan finds the shim processes of one node, and ends those that no container uses.
//
// It decides which processes are shims of a node. It does not decide which of them are in use; its
// caller, package containerd, knows the containers. It touches no process of another node, not even
// of a node in a container of this host with folders of the same names. It runs no goroutine.
package orphan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"swarm/containerd/layout"
	"swarm/containerd/shim"
	"swarm/internal/pause"
)

const (
	// endGrace is how long a shim may take to end after SIGTERM before it is killed, and how long a
	// killed shim may take to end.
	endGrace = 5 * time.Second
	// endPoll is how often End looks whether the shim has ended.
	endPoll = 20 * time.Millisecond
)

// Shim is a shim process that serves the containers of one group.
type Shim struct {
	Pid int
	// Socket is the path of the socket on which it serves.
	Socket string

	dir     string // folder of the process in /proc
	process *os.Process
}

// Shims returns the shims that serve on a socket in the containerd state folder state. The caller
// must call Close of each.
func Shims(state string) ([]*Shim, error) {
	own, err := os.Stat(layout.ShimSockets(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find shims: %w", err)
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find shims: %w", err)
	}
	var found []*Shim
	for _, p := range procs {
		dir := filepath.Join("/proc", p.Name())
		if !isShim(dir) {
			continue
		}
		// A process in a container may see another folder at the same path.
		seen, err := os.Stat(filepath.Join(dir, "root", layout.ShimSockets(state)))
		if err != nil || !os.SameFile(own, seen) {
			continue
		}
		if s := open(dir, layout.ShimSockets(state)); s != nil {
			found = append(found, s)
		}
	}
	return found, nil
}

// isShim reports whether a process is a shim that serves, and not one of the short-lived processes
// that start a shim or clean up after it, which have the name of an action as an argument.
func isShim(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	last := args[len(args)-1]
	return filepath.Base(args[0]) == shim.Name && last != "start" && last != "delete"
}

// open returns the shim whose folder in /proc is dir. It returns nil if the process has ended, or
// does not serve on a socket in the folder sockets.
func open(dir, sockets string) *Shim {
	pid, err := strconv.Atoi(filepath.Base(dir))
	if err != nil {
		return nil
	}
	p, err := os.FindProcess(pid) // The handle means this process, even if the id is reused later.
	if err != nil {
		return nil
	}
	socket := servesOn(dir, sockets)
	if socket == "" || !isShim(dir) {
		_ = p.Release()
		return nil
	}
	return &Shim{Pid: pid, Socket: socket, dir: dir, process: p}
}

// servesOn returns the path of a process's socket in the folder sockets, or "" if it has none.
func servesOn(dir, sockets string) string {
	list, err := os.Open(filepath.Join(dir, "net", "unix"))
	if err != nil {
		return ""
	}
	defer list.Close()
	paths := make(map[string]string) // by what a descriptor of the socket links to
	for lines := bufio.NewScanner(list); lines.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(lines.Text())
		if len(f) == 8 && filepath.Dir(f[7]) == sockets {
			paths["socket:["+f[6]+"]"] = f[7]
		}
	}
	descriptors, _ := filepath.Glob(filepath.Join(dir, "fd", "*")) // the pattern is valid
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil && paths[target] != "" {
			return paths[target]
		}
	}
	return ""
}

// End kills the processes that the shim still has, and ends the shim with SIGTERM, or with SIGKILL
// if it takes longer than endGrace. It returns ErrUnavailable if the process does not end.
func (s *Shim) End(ctx context.Context) error {
	for _, pid := range s.children() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // It may have ended.
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := s.process.Signal(sig); errors.Is(err, os.ErrProcessDone) {
			break
		} else if err != nil {
			return fmt.Errorf("end shim %d: %w", s.Pid, err)
		}
		grace, cancel := context.WithTimeout(ctx, endGrace)
		for s.runs() && pause.For(grace, endPoll) == nil {
		}
		cancel()
		if !s.runs() {
			break
		}
	}
	if s.runs() {
		return fmt.Errorf("end shim %d: it runs on after SIGKILL: %w", s.Pid, errdefs.ErrUnavailable)
	}
	// A shim that was killed leaves its socket. No other shim uses the path, because the name of a
	// group is not used again.
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end shim %d: %w", s.Pid, err)
	}
	return nil
}

// children returns the processes whose parent is the shim. The first process of each of its
// containers is one of them.
func (s *Shim) children() []int {
	lists, _ := filepath.Glob(filepath.Join(s.dir, "task", "*", "children")) // the pattern is valid
	var pids []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// runs reports whether the process has not ended. One that has ended and whose parent has not read
// its status yet has ended, too.
func (s *Shim) runs() bool {
	if errors.Is(s.process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
		return false
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "stat"))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Close releases the handle of the process.
func (s *Shim) Close() { _ = s.process.Release() }
