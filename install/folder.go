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

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"swarm/internal/tree"
)

// RemoveFolder unmounts everything below dir and removes dir with its content. If dir is itself a
// mount point or a symbolic link, the operator has made dir, and RemoveFolder removes only its
// content. It removes nothing behind a mount or a symbolic link inside dir. It reports whether
// there was a folder. The error is ErrInvalidArgument for a path that is not absolute, or that is
// or leads to the root folder or a folder of the system such as /etc. It is ErrFailedPrecondition
// if a mount below dir cannot be unmounted.
func RemoveFolder(ctx context.Context, dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !filepath.IsAbs(dir) || slices.Contains(systemFolders, real) {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is %s, which is not a folder of swarm", dir, real))
	}
	if err := unmountBelow(real); err != nil {
		return false, err
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

// systemFolders are the folders of the Filesystem Hierarchy Standard that a link or a mistake could
// name, and that no daemon owns.
var systemFolders = []string{
	"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
	"/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log", "/var/run",
}

// unmountBelow unmounts everything below a folder, and fails if a mount is left. The kernel does
// not unmount mounts that a user namespace has locked, and the files behind such a mount do not
// belong to swarm.
func unmountBelow(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	left, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s is mounted, and cannot be unmounted: unmount it and try again", left[0]))
	}
	return nil
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
