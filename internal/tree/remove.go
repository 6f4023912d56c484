//go:build linux

// Package tree removes and measures file trees that containers have made, such as the data of a
// volume. A tree may have any depth and size: the functions keep a bounded number of descriptors
// open, and follow no links. It runs no goroutine.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxLevels limits the number of nested folders that a walk keeps open.
const maxLevels = 64

// RemoveAll removes the file or tree at path. A missing path is not an error. The tree may have any
// depth. os.RemoveAll keeps a descriptor open for each level, and a container can make more levels
// than the daemon may have descriptors. RemoveAll keeps at most maxLevels open, and moves deeper
// folders to the top of the tree. It follows no links. After an error it removes the rest. It
// returns the first error, which names the entry but not the folders above it.
func RemoveAll(ctx context.Context, path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	r := remover{ctx: ctx}
	r.entry(parent, filepath.Base(path), 0)
	if r.err != nil {
		return fmt.Errorf("remove %s: %w", path, r.err)
	}
	return nil
}

// RemoveBelow removes the content of the folder at path, like RemoveAll, and keeps the folder.
func RemoveBelow(ctx context.Context, path string) error {
	top, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{ctx: ctx, top: top}
	r.folder(top, 1)
	if r.err != nil {
		return fmt.Errorf("empty %s: %w", path, r.err)
	}
	return nil
}

// remover removes one tree.
type remover struct {
	ctx   context.Context // the context of the call
	top   *os.File
	moved int
	err   error // the first error
}

func (r *remover) fail(name string, err error) bool {
	if r.err == nil {
		r.err = fmt.Errorf("%q: %w", name, err)
	}
	return false
}

// entry removes one entry of a folder. It reports whether the entry is gone from the folder.
func (r *remover) entry(dir *os.File, name string, level int) bool {
	fd := int(dir.Fd())
	// For a folder, Unlinkat without a flag returns EISDIR or EPERM. It may also return EPERM for a
	// file, for which AT_REMOVEDIR then returns ENOTDIR.
	err := unix.Unlinkat(fd, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		fileErr := err
		if err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); errors.Is(err, unix.ENOTDIR) {
			err = fileErr
		}
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return true
	case !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST):
		return r.fail(name, err)
	}
	if level >= maxLevels {
		return r.moveUp(fd, name)
	}
	sub, err := openFolder(dir, name)
	if err != nil {
		return r.fail(name, err)
	}
	defer sub.Close()
	if r.top == nil {
		r.top = sub
	}
	if !r.folder(sub, level+1) {
		return false
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return r.fail(name, err)
	}
	return true
}

// moveUp moves a folder to the top of the tree, where the walk removes it later.
func (r *remover) moveUp(fd int, name string) bool {
	for {
		r.moved++
		err := unix.Renameat2(fd, name, int(r.top.Fd()), ".moved-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return r.fail(name, err)
		}
		return true
	}
}

// folder removes the content of a folder. It reports whether nothing is left. It reads the folder
// again until a pass removes nothing, because file systems may skip entries if others are removed
// during a read.
func (r *remover) folder(dir *os.File, level int) bool {
	for {
		gone, left := 0, 0
		err := eachName(r.ctx, dir, func(name string) error {
			if r.entry(dir, name, level) {
				gone++
			} else {
				left++
			}
			return nil
		})
		if err != nil {
			return r.fail(filepath.Base(dir.Name()), err)
		}
		if gone == 0 {
			return left == 0
		}
	}
}

// eachName calls do for every name in an open folder, from the beginning.
func eachName(ctx context.Context, dir *os.File, do func(name string) error) error {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// openFolder opens a folder directly below another one for reading. The name of the returned file
// is name, not a path.
func openFolder(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
