// Package private owns the mode of the daemon's folders: a folder that holds what containers or secrets leave is for root
// alone. Below such a folder no other user of the host reaches a file, whatever the file's own mode: containers set the
// modes of files in their volumes, and a setuid program there would run as root for every user of the host.
//
// It refuses nothing and runs no goroutine. The daemon's parts call it when they make, or find, a folder of theirs.
package private

import (
	"fmt"
	"os"
)

// Mode is the mode of a private folder.
const Mode os.FileMode = 0o700

// Folder makes the folder path and its parents where they are missing, and gives path, also one that was there, the mode
// 0700.
func Folder(path string) error {
	if err := os.MkdirAll(path, Mode); err != nil {
		return err
	}
	return Close(path)
}

// Close gives a folder that exists the mode 0700.
func Close(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode()&(os.ModePerm|os.ModeSetuid|os.ModeSetgid|os.ModeSticky) == Mode {
		return nil
	}
	if err := os.Chmod(path, Mode); err != nil {
		return fmt.Errorf("keep other users out of %s: %w", path, err)
	}
	return nil
}
