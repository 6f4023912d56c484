//go:build unix

package keychain

import (
	"os"
	"syscall"
)

// keepOwner gives the new file to whom the old one belongs, if this user may: with sudo it would become root's, and the
// user's own logins would be gone.
func keepOwner(old string, file *os.File) {
	if info, err := os.Stat(old); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = file.Chown(int(st.Uid), int(st.Gid)) // Not this user's to give away: then it is written as this user's.
		}
	}
}
