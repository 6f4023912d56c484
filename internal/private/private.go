// Package private keeps the users of a host out of the folders of the daemon. Only root may open a
// folder with data of containers or secrets. No other user can then reach a file below it, even if
// the mode of the file allows it. This is necessary because containers set the modes of the files
// in their volumes, and a setuid program there would run as root for every user of the host.
//
// The parts of the daemon call the package when they create or find such a folder. It runs no
// goroutine.
package private

import (
	"fmt"
	"os"
)

// Mode is the mode of a private folder.
const Mode os.FileMode = 0o700

// Folder creates the folder at path and its missing parents. It gives the folder the mode 0700,
// also if the folder existed before.
func Folder(path string) error {
	if err := os.MkdirAll(path, Mode); err != nil {
		return err
	}
	return Restrict(path)
}

// Restrict gives an existing folder the mode 0700.
func Restrict(path string) error {
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
