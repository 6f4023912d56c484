//go:build unix

package durable

import (
	"os"
	"syscall"
)

// keepOwner gives a new file to the owner and the group of the file old. It does nothing if there
// is no such file, or if this user may not give files away: the new file is then this user's.
func keepOwner(old string, file *os.File) {
	if info, err := os.Stat(old); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = file.Chown(int(st.Uid), int(st.Gid))
		}
	}
}
