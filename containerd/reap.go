//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/pause"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// reapTimeout bounds the wait for killed processes to end. reapPoll is the pause between two
	// attempts to remove their cgroup.
	reapTimeout = 5 * time.Second
	reapPoll    = 10 * time.Millisecond
)

// removeCgroup removes what is left of the container's cgroup, and kills the processes in it.
// Something is left if the container's shim was killed, or if the set-up of the container was
// abandoned.
func (r *Runtime) removeCgroup(ctx context.Context, id string) error {
	c, err := r.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, dir := range cgroupDirs(cgroupRoot, c.Labels[labelCgroup], id) {
		if err := reap(ctx, dir); err != nil {
			r.log.WarnContext(ctx, "cgroup was not removed", "task", id, "dir", dir, "err", err)
		}
	}
	return nil
}

// killCgroup kills the processes in the container's cgroup, and returns when they have ended. It is
// for a container whose shim does not answer, or which runs on after SIGKILL.
func (r *Runtime) killCgroup(ctx context.Context, id string) error {
	c, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return ignoreNotFound(err)
	}
	dirs := cgroupDirs(cgroupRoot, c.Labels[labelCgroup], id)
	if len(dirs) == 0 {
		return fmt.Errorf("its cgroup %s is not found: %w", c.Labels[labelCgroup], errShimSilent)
	}
	r.log.WarnContext(ctx, "container's shim does not answer, killing the container's cgroup", "task", id)
	wait, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	for {
		var left []int
		for _, dir := range dirs {
			left = append(left, killTree(dir)...)
		}
		if len(left) == 0 {
			return nil
		}
		if pause.For(wait, reapPoll) != nil {
			return fmt.Errorf("process %d does not end after SIGKILL, it may wait for a disk or a network file system: %w", left[0], context.DeadlineExceeded)
		}
	}
}

// killTree sends SIGKILL to the processes in a cgroup and in those below it, and returns the
// processes.
func killTree(dir string) []int {
	var pids []int
	entries, _ := os.ReadDir(dir) // A cgroup that is gone has no processes.
	for _, e := range entries {
		if e.IsDir() {
			pids = append(pids, killTree(filepath.Join(dir, e.Name()))...)
		}
	}
	procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for _, field := range strings.Fields(string(procs)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			_ = unix.Kill(pid, unix.SIGKILL) // The process may have ended.
			pids = append(pids, pid)
		}
	}
	return pids
}

// cgroupDirs finds the folders of a container's cgroup, one in each hierarchy: below the root, or
// one level deeper if there are several hierarchies. A scope of systemd, written
// "slice:prefix:name", may be in a slice inside other slices.
func cgroupDirs(root, cgroup, id string) []string {
	patterns := []string{cgroup, "*" + cgroup}
	if strings.Contains(cgroup, ":") {
		scope := "swarm-" + id + ".scope"
		patterns = []string{"*.slice/" + scope, "*/*.slice/" + scope, "*/*.slice/*.slice/" + scope}
	} else if filepath.Base(cgroup) != id {
		return nil
	}
	var dirs []string
	for _, p := range patterns {
		found, _ := filepath.Glob(filepath.Join(root, p)) // It returns only ErrBadPattern, and ids have no special characters.
		dirs = append(dirs, found...)
	}
	return dirs
}

// reap kills the processes in a cgroup and in those below it, and removes the cgroups.
func reap(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	for {
		err := removeTree(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || pause.For(ctx, reapPoll) != nil {
			return err
		}
	}
}

// removeTree kills the processes in a cgroup and in those below it, and removes the cgroups, the
// innermost first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	killTree(dir)
	return unix.Rmdir(dir)
}
