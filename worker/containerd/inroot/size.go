//go:build linux

package inroot

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxSizeEntries is how many entries Size looks at: some seconds' worth.
const maxSizeEntries = 4 << 20

// ErrPartial is returned by Size for a tree that has more entries or levels than it looks at.
var ErrPartial = errors.New("it has too many files or too many levels of folders to count them all")

// Size adds up the blocks, in bytes, of all files below the folder at path, each file once. It follows no link and has at
// most maxLevels folders open. Containers may write there meanwhile: what goes does not count. A folder that is not there
// has the size 0. With ErrPartial it returns the size of what it has looked at.
func Size(ctx context.Context, path string) (int64, error) {
	top, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer top.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return 0, err
	}
	s := sizer{ctx: ctx, bytes: st.Blocks * 512, left: maxSizeEntries, linked: make(map[file]bool)}
	err = s.folder(top, 1)
	if err == nil && s.cut {
		err = ErrPartial
	}
	return s.bytes, err
}

// file is what a file with several names is known by.
type file struct{ device, inode uint64 }

// sizer adds up one tree.
type sizer struct {
	ctx    context.Context // of the one call
	bytes  int64
	left   int // entries that may be looked at
	cut    bool
	linked map[file]bool
}

// folder adds up what is in a folder. What cannot be looked at does not count.
func (s *sizer) folder(dir *os.File, level int) error {
	return eachName(s.ctx, dir, func(name string) error {
		if s.left--; s.left < 0 {
			return ErrPartial
		}
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if !isDir && st.Nlink > 1 {
			f := file{st.Dev, st.Ino}
			if s.linked[f] {
				return nil
			}
			s.linked[f] = true
		}
		s.bytes += st.Blocks * 512
		if !isDir {
			return nil
		}
		if level >= maxLevels {
			s.cut = true
			return nil
		}
		sub, err := openFolder(dir, name)
		if err != nil {
			return nil
		}
		defer sub.Close()
		if err := s.folder(sub, level+1); errors.Is(err, ErrPartial) || s.ctx.Err() != nil {
			return err
		}
		return nil
	})
}
