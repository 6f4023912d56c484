//go:build linux

package disk

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Space is the space of a file system in bytes.
type Space struct {
	// Total and Free do not count the space that the file system keeps for root.
	Total, Free uint64
	// NoInodes is true if no inode is left for another file.
	NoInodes bool
}

// Of returns the Space of the file system that contains a folder.
func Of(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, fmt.Errorf("space of %s: %w", dir, err)
	}
	unit := uint64(st.Bsize)
	used := (st.Blocks - st.Bfree) * unit
	return Space{
		Total: used + st.Bavail*unit, Free: st.Bavail * unit,
		NoInodes: st.Files > 0 && st.Ffree == 0,
	}, nil
}

// UsedPercent returns the used part of the space, from 0 to 100, as df(1) counts.
func (s Space) UsedPercent() int {
	if s.Total == 0 {
		return 0
	}
	return int((s.Total - s.Free) * 100 / s.Total)
}

// IsFull reports whether an error means that the disk or a quota is full. It also compares the
// error text, because an error from another process is only text.
func IsFull(err error) bool {
	return err != nil && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) ||
		strings.Contains(err.Error(), unix.ENOSPC.Error()) || strings.Contains(err.Error(), unix.EDQUOT.Error()))
}

// ReserveBeyondEnd reserves disk blocks for a file, up to the given number of bytes beyond its
// present end. Writes to the file up to that position then succeed even on a full disk, also in
// holes of the file. The size of the file does not change. ReserveBeyondEnd does nothing on a file
// system that does not support this.
func ReserveBeyondEnd(path string, bytes int64) error {
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
		return fmt.Errorf("reserve room for %s: %w", path, err)
	}
	return nil
}
