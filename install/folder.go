//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"swarm/internal/tree"
)

// RemoveFolder unmounts everything below dir and removes dir with its content. If dir is itself a
// mount point or a symbolic link, the operator made it: then only its content is removed. It
// reports whether there was a folder.
func RemoveFolder(ctx context.Context, dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	mounts, err := mountsBelow(real)
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// Containers may have nested folders in volumes to any depth, which os.RemoveAll cannot
		// remove.
		if err := tree.RemoveAll(ctx, filepath.Join(real, e.Name())); err != nil {
			return true, err
		}
	}
	if real != dir {
		return true, nil
	}
	if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
		return true, err
	}
	return true, nil
}

// mountsBelow lists the mount points below a folder. The last one mounted comes first, because it
// may be below another one.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, m := range slices.Backward(mounts) {
		if m.Mountpoint != dir {
			found = append(found, m.Mountpoint)
		}
	}
	return found, nil
}
