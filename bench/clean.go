package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// close ends the daemon and everything whose command line names the round's folder (shims, companions), then unmounts
// and removes that folder.
func (h *host) close() {
	if h.daemon != nil && h.daemon.Process != nil {
		_ = h.daemon.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() {
			_ = h.daemon.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = h.daemon.Process.Kill()
			<-done
		}
	}
	killAll(h.dir)
	unmountBelow(h.dir)
	removeCgroups(coldCgroup)
	if err := h.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove the host:", err)
	}
	if err := os.RemoveAll(h.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: remove its files:", err)
	}
}

// killAll kills the processes that name dir in their command line or root file system, with their children.
func killAll(dir string) {
	victims := map[int]bool{}
	parents := map[int]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 {
			if fields := strings.Fields(string(stat[i+1:])); len(fields) > 1 {
				parents[pid], _ = strconv.Atoi(fields[1])
			}
		}
		if bytes.Contains(cmdline, []byte(dir+"/")) {
			victims[pid] = true
		}
	}
	for pid := range parents {
		for p := pid; p > 1; p = parents[p] {
			if victims[p] {
				victims[pid] = true
				break
			}
		}
	}
	for pid := range victims {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func unmountBelow(dir string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(mounts), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if fields := strings.Fields(lines[i]); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			_ = unix.Unmount(fields[1], unix.MNT_DETACH)
		}
	}
}

// removeCgroups removes the cgroups of a name, with what is below them, from every hierarchy. Only empty ones go: those
// that processes of others are in stay.
func removeCgroups(name string) {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		tops, _ := filepath.Glob(pattern) // The patterns are valid.
		for _, top := range tops {
			_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					found = append(found, path)
				}
				return nil // What vanishes meanwhile is what is wanted.
			})
		}
	}
	for i := len(found) - 1; i >= 0; i-- {
		_ = os.Remove(found[i])
	}
}
