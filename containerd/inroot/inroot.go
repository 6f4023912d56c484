//go:build linux

// Package inroot opens what lies in a file tree that somebody else writes: a container's root, an
// image, the data of a volume. It is the one home of the rule that no path in such a tree is looked
// up twice by its name, because the tree may change between two look-ups.
//
// A look-up never leaves the tree: symbolic links are resolved as if the tree's root were the root
// of the file system, and magic links of /proc are refused. A look-up opens nothing that could
// block or act, such as a named pipe or a device: it yields a handle, and only a regular file or a
// folder is opened from it. The kernel does this from 5.6 on; before, the library walks the path by
// itself and checks each step.
//
// Whole trees are removed and measured by package internal/tree.
//
// The runtime adapter, package containerd, calls it. It runs no goroutine.
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

// Open returns a handle (O_PATH) of name below the folder root. A name that is not there is
// fs.ErrNotExist.
func Open(root, name string) (*os.File, error) {
	top, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return pathrs.OpenatInRoot(top, name)
}

// Resolve returns where name leads below the folder root, as a path from there that begins with a
// slash. What is not there has no links. The answer holds as long as nobody writes below root: to
// open something there, use Open.
func Resolve(root, name string) (string, error) {
	at, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(root, at)
	return filepath.Join("/", below), err
}

// MkdirAll makes the folder name below the folder root, and the folders above it, with mode 0755
// where they are missing. It returns the folder, open for reading.
func MkdirAll(root, name string) (*os.File, error) {
	top, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return pathrs.MkdirAllHandle(top, name, 0o755)
}

// ReadFile reads the regular file name below the folder root. It is empty when there is no such
// file. A file of more than limit bytes, and what is no regular file, is ErrInvalidArgument. Files
// of the kernel, which have no size, are empty.
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

// Path is a path that leads to what an open file or handle is of, and nowhere else, as long as it
// is open and in this process alone. Below a folder it leads on by name: only where nobody else
// writes.
func Path(f *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())))
}

// Bind mounts what a file or handle is of, with all that is mounted below it, at target, which it
// makes. What is mounted or unmounted below the original later is not seen at target, nor the other
// way round.
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

// Unbind undoes Bind, also one that was cut short.
func Unbind(target string) error {
	// What is mounted below would otherwise be unmounted at the original too.
	err := unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == nil {
		err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: nothing is mounted there
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	// Never with what is below: were it mounted still, that would be the original.
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
