//go:build linux

// Package mountover puts a file of the host over a file of a running container, by a mount in the
// container's mount namespace. Processes of the container see the old or the new file, and never a
// part.
//
// Package containerd calls it. It runs one goroutine for each call of Mount, which ends with the
// call.
package mountover

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Mount mounts the file source of the host, read-only, over the file target in the mount namespace
// of the process. Symbolic links in target never lead out of the container's root.
// ErrFailedPrecondition: the kernel is older than Linux 5.12, or the container has no such file.
// ErrNotFound: there is no such process.
func Mount(pid int, source, target string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return failed("clone the mount of "+source, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		return failed("make the mount read-only", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		// The thread is never unlocked, so that it ends with the goroutine: no other goroutine may
		// run in the container's namespace.
		runtime.LockOSThread()
		done <- attach(tree, int(ns.Fd()), target)
	}()
	return <-done
}

// attach moves a mount to a path in a mount namespace. It leaves the calling thread in the
// namespace.
func attach(tree, ns int, target string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return failed("leave the folders of the other threads", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return failed("enter the container's mounts", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open the container's root", err)
	}
	defer unix.Close(root)
	file, err := unix.Openat2(root, target, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return failed("open "+target+" in the container", err)
	}
	defer unix.Close(file)
	if err := unix.MoveMount(tree, "", file, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return failed("mount "+target, err)
	}
	return nil
}

func failed(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrFailedPrecondition)
}
