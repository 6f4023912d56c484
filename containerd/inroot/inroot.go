//go:build linux

// Package inroot opens files in a tree that other processes write to: a container's root, an image,
// or the data of a volume. It enforces the rule that no path in such a tree is looked up twice by
// its name, because the tree may change between the two look-ups.
//
// A look-up never leaves the tree: symbolic links are resolved as if the tree's root were the root
// of the file system, and magic links of /proc are refused. A look-up does not open files whose
// opening could block or have an effect, such as named pipes and devices: it returns a handle, from
// which only regular files and folders are opened. From Linux 5.6 on, the kernel does this; on
// older kernels, the library walks the path itself and checks each step.
//
// Package internal/tree removes and measures whole trees. The runtime adapter calls this package,
// which runs no goroutine.
package inroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// Open returns a handle (O_PATH) of the file or folder name below the folder root. fs.ErrNotExist:
// there is no such file.
func Open(root, name string) (*os.File, error) {
	top, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return pathrs.OpenatInRoot(top, name)
}

// Resolve returns the path to which name leads below the folder root, beginning with a slash that
// stands for root. Parts of name that do not exist count as folders. The result is valid only while
// no process writes below root: to open a file, use Open.
func Resolve(root, name string) (string, error) {
	at, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(root, at)
	return filepath.Join("/", below), err
}

// MkdirAll makes the folder name below the folder root, and the folders above it, with mode 0755,
// unless they exist. It returns the folder, open for reading.
func MkdirAll(root, name string) (*os.File, error) {
	top, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return pathrs.MkdirAllHandle(top, name, 0o755)
}

// ReadFile reads the regular file name below the folder root. It returns nothing if there is no
// such file. ErrInvalidArgument: the file is longer than limit bytes, or is not a regular file.
// Files of the kernel, which have the size 0, are read as empty.
func ReadFile(root, name string, limit int64) ([]byte, error) {
	handle, err := Open(root, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	defer handle.Close()
	info, err := handle.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is %s and no regular file: %w", name, kind(info.Mode()), errdefs.ErrInvalidArgument)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read: %w", name, info.Size(), limit, errdefs.ErrInvalidArgument)
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, info.Size()))
}

// Path returns a path that leads to an open file or handle, and nowhere else. It is valid while the
// file is open, and in this process only. A path below a folder is looked up by its name, so it is
// safe only where no other process writes.
func Path(f *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())))
}

// Bind makes target, and mounts there the file or folder f, with everything that is mounted below
// it. Later mounts below f do not appear at target, nor the other way round.
func Bind(f *os.File, target string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(Path(f), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", f.Name(), target, err)
	}
	return unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, "")
}

// Unbind undoes Bind, also a call of Bind that was interrupted.
func Unbind(target string) error {
	// Make the mount private first. Otherwise the mounts below it would be unmounted at the
	// original too.
	err := unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == nil {
		err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: nothing is mounted at target.
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	// Remove only the mount point itself. If it were still mounted, files below it would be those
	// of the original.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func openRoot(root string) (*os.File, error) {
	return os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return m.Type().String()
}
