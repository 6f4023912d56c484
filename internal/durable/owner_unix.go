//go:build unix

package durable

import (
	"os"
	"syscall"
)

// keepOwner sets the owner and the group of file to those of the file at the path old. It does
// nothing if there is no file at old. It ignores an error, because only root may change an owner.
func keepOwner(old string, file *os.File) {
	if info, err := os.Stat(old); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = file.Chown(int(st.Uid), int(st.Gid))
		}
	}
}
