//go:build linux

package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxSizeEntries is the most entries that Size counts, which takes some seconds.
const maxSizeEntries = 4 << 20

// ErrPartial is the error of Size for a tree with more entries or levels than Size counts.
var ErrPartial = errors.New("it has too many files or too many levels of folders to count them all")

// Size returns the disk usage in bytes of all files below the folder at path. A file with several
// names (hard links) counts a share for each name, so Size need not remember which files it has
// counted. If a file also has names outside of the tree, only a part of its size counts. Size
// follows no symbolic links and keeps at most maxLevels folders open. Containers may change the
// tree during the call; entries that disappear do not count. A missing folder has size 0. With
// ErrPartial, Size returns the size of the entries that it has counted.
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
	s := sizer{ctx: ctx, bytes: st.Blocks * 512, left: maxSizeEntries}
	err = s.folder(top, 1)
	if err == nil && s.cut {
		err = ErrPartial
	}
	return s.bytes, err
}

// sizer measures one tree.
type sizer struct {
	ctx   context.Context // the context of the call
	bytes int64
	left  int // the number of entries that may still be counted
	cut   bool
}

// folder adds the size of the content of a folder. Entries that cannot be read do not count.
func (s *sizer) folder(dir *os.File, level int) error {
	return eachName(s.ctx, dir, func(name string) error {
		if s.left--; s.left < 0 {
			return ErrPartial
		}
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			s.bytes += st.Blocks * 512 / max(1, int64(st.Nlink))
			return nil
		}
		s.bytes += st.Blocks * 512
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
