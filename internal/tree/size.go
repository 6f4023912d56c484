//go:build linux

package tree

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

// Size adds up the blocks, in bytes, of all files below the folder at path. Each name of a file with several counts its
// share of the file, so that nothing has to be remembered of millions of files: a file of which other names are elsewhere
// counts in part. Size follows no symbolic link and has at most maxLevels folders open. Containers may write there
// meanwhile: what goes does not count. A folder that is not there has the size 0. With ErrPartial it returns the size of
// what it has looked at.
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

// sizer adds up one tree.
type sizer struct {
	ctx   context.Context // of the one call
	bytes int64
	left  int // entries that may be looked at
	cut   bool
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
