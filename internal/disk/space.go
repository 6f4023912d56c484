//go:build linux

package disk

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Space of a file system, in bytes.
type Space struct {
	// Total and Free are as users see them: without what is kept for root.
	Total, Free uint64
	// NoNames: there is room, and no inode is left to name a file.
	NoNames bool
}

// Of is the space of the file system that a folder is on.
func Of(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, fmt.Errorf("space of %s: %w", dir, err)
	}
	unit := uint64(st.Bsize)
	used := (st.Blocks - st.Bfree) * unit
	return Space{
		Total: used + st.Bavail*unit, Free: st.Bavail * unit,
		NoNames: st.Files > 0 && st.Ffree == 0,
	}, nil
}

// UsedPercent is how much of the space is used, 0 to 100, as df(1) counts.
func (s Space) UsedPercent() int {
	if s.Total == 0 {
		return 0
	}
	return int((s.Total - s.Free) * 100 / s.Total)
}

// IsFull tells an error for want of room, also of another process, whose words are all there is.
func IsFull(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) ||
		strings.Contains(err.Error(), unix.ENOSPC.Error()) || strings.Contains(err.Error(), unix.EDQUOT.Error()))
}

// Ahead makes sure that a file can be written to some bytes beyond its present end, holes within it included, whatever
// becomes of the disk. What others see of the file does not change. File systems that cannot do that are left alone.
func Ahead(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, st.Size()+bytes)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("keep room for %s: %w", path, err)
	}
	return nil
}
