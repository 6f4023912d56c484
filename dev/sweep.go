//go:build linux

package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
)

// These variables are in the environment of every daemon, its container runtime and its shims, but
// not in that of containers. The value of envHost is PLAYGROUND/HOST.
const (
	envPlayground = "SWARM_DEV"
	envHost       = "SWARM_DEV_HOST"
)

// Scope is what Sweep removes: a playground, one host of a playground, or programs on hosts of a
// Lab.
type Scope struct {
	// Dirs are folders with programs, state, sockets and mounts, and nothing else.
	Dirs []string
	// Cgroups are parent cgroups, as paths from the root of each hierarchy.
	Cgroups []string
	// Pins are the paths of pinned network namespaces.
	Pins []string
	// markers are entries NAME=value of an environment.
	markers []string
}

// hostScope returns the scope of one host.
func (r *record) hostScope(host string) Scope {
	return Scope{
		markers: []string{envHost + "=" + r.key(host)},
		Dirs:    []string{r.stateDir(host), r.hostRunDir(host)},
		Cgroups: []string{r.cgroupParent(host)},
		Pins:    []string{filepath.Join(r.pinDir(), host+".ns")},
	}
}

// wholeScope returns the scope of the playground. It includes hosts that the record does not have.
func (r *record) wholeScope() Scope {
	s := Scope{
		markers: []string{envPlayground + "=" + r.Name},
		Dirs:    []string{runDir(r.Name)},
		Cgroups: []string{r.cgroupRoot()},
	}
	// The folder has no metacharacters: names are letters, digits and dashes.
	s.Pins, _ = filepath.Glob(filepath.Join(r.pinDir(), "*.ns"))
	if name, err := os.ReadFile(filepath.Join(r.Root, marker)); err == nil && strings.TrimSpace(string(name)) == r.Name {
		s.Dirs = append(s.Dirs, r.Root)
	}
	return s
}

// Sweep ends the processes of a scope, unmounts what is mounted there and removes its cgroups.
// Files stay.
func (s Scope) Sweep(ctx context.Context) error {
	// A frozen container cannot die (cgroup v1).
	s.thaw()
	if err := killAll(ctx, s.processes); err != nil {
		return err
	}
	if err := s.unmount(); err != nil {
		return err
	}
	return s.removeCgroups(ctx)
}

// processes lists the processes of the scope. A process belongs to the scope by its network
// namespace, its program's folder, its environment or its cgroup, or because its parent belongs to
// the scope. This process and its ancestors are never in the list.
func (s Scope) processes() ([]process, error) {
	spaces := s.namespaces()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]stat)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.state != 'Z' {
			all[pid] = st
		}
	}
	spared := ancestors(all)
	inside := make(map[int]bool)
	for pid := range all {
		inside[pid] = !spared[pid] && s.matches(pid, spaces)
	}
	var found []process
	for pid, st := range all {
		if !spared[pid] && descends(all, inside, pid) {
			found = append(found, st.process)
		}
	}
	return found, nil
}

func ancestors(all map[int]stat) map[int]bool {
	spared := map[int]bool{1: true}
	for pid := os.Getpid(); pid > 0 && !spared[pid]; pid = all[pid].parent {
		spared[pid] = true
	}
	return spared
}

func descends(all map[int]stat, inside map[int]bool, pid int) bool {
	for ; pid > 1; pid = all[pid].parent {
		if inside[pid] {
			return true
		}
	}
	return false
}

// namespaces returns the network namespaces of the scope's pins. The machine's namespace is never
// among them, even if it is mounted at one of the pins.
func (s Scope) namespaces() map[netns.ID]bool {
	ids := make(map[netns.ID]bool)
	for _, pin := range s.Pins {
		if ns, err := netns.Open(pin); err == nil {
			ids[ns.ID()] = true
			ns.Close()
		}
	}
	for _, pid := range []int{1, os.Getpid()} {
		if id, err := netns.OfProcess(pid); err == nil {
			delete(ids, id)
		}
	}
	return ids
}

func (s Scope) matches(pid int, spaces map[netns.ID]bool) bool {
	if id, err := netns.OfProcess(pid); err == nil && spaces[id] {
		return true
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && s.holds(exe) {
		return true
	}
	if slices.ContainsFunc(s.markers, func(m string) bool { return environHas(pid, m) }) {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		// hierarchy:controllers:path
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && slices.ContainsFunc(s.Cgroups, func(c string) bool { return within(parts[2], c) }) {
			return true
		}
	}
	return false
}

// holds reports whether the path is in one of the scope's folders.
func (s Scope) holds(path string) bool {
	return slices.ContainsFunc(s.Dirs, func(d string) bool { return within(path, d) })
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// unmount unmounts everything below the scope's folders, the deepest first.
func (s Scope) unmount() error {
	for range 5 {
		mounts, err := mountinfo.GetMounts(nil)
		if err != nil {
			return err
		}
		mounts = slices.DeleteFunc(mounts, func(m *mountinfo.Info) bool { return !s.holds(m.Mountpoint) })
		if len(mounts) == 0 {
			return nil
		}
		// The table is in the order of mounting, so read it backwards.
		slices.Reverse(mounts)
		slices.SortStableFunc(mounts, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
		for _, m := range mounts {
			err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("mounts under %v keep coming back", s.Dirs)
}

// removeFiles removes the scope's folders. If something is still mounted below a folder, it returns
// an error, because it would delete the content of the mount.
func (s Scope) removeFiles() error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if s.holds(m.Mountpoint) {
			return fmt.Errorf("%s is still mounted: nothing removed", m.Mountpoint)
		}
	}
	var errs []error
	for _, d := range s.Dirs {
		errs = append(errs, os.RemoveAll(d))
	}
	return errors.Join(errs...)
}

// cgroupDirs returns the folders of the scope's cgroups in every hierarchy.
func (s Scope) cgroupDirs() []string {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, m := range mounts {
		if m.FSType != "cgroup" && m.FSType != "cgroup2" {
			continue
		}
		for _, c := range s.Cgroups {
			if dir := filepath.Join(m.Mountpoint, c); isDir(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func (s Scope) thaw() {
	for _, root := range s.cgroupDirs() {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "freezer.state" {
				// If a cgroup is not thawed, the kill reports its processes.
				_ = os.WriteFile(path, []byte("THAWED"), 0o644)
			}
			return nil
		})
	}
}

// removeCgroups removes the scope's cgroups with all cgroups below. A cgroup is busy for a moment
// after the end of its last process.
func (s Scope) removeCgroups(ctx context.Context) error {
	for _, root := range s.cgroupDirs() {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list cgroup %s: %w", root, err)
		}
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := removeBusy(ctx, dir); err != nil {
				return fmt.Errorf("remove cgroup: %w", err)
			}
		}
	}
	return nil
}
