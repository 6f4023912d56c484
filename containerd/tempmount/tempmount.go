//go:build linux

// Package tempmount sets the folder in which this process makes containerd's temporary mounts, and
// cleans the folder. The daemon and `swarm runtime` call it when they start, each with a folder of
// its own. It runs no goroutine.
package tempmount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
)

// Use makes dir the folder of this process's temporary mounts. It unmounts what an earlier process,
// which was killed, has left mounted there, and removes the empty folders that it has left. It
// gives what it could not remove to warn, and returns an error if dir cannot be used. No other
// process may use dir.
func Use(dir string, warn func(error)) error {
	if err := mount.SetTempMountLocation(dir); err != nil {
		return fmt.Errorf("folder of temporary mounts: %w", err)
	}
	warnings, err := mount.CleanupTempMounts(0)
	left, gerr := filepath.Glob(filepath.Join(dir, "containerd-mount*"))
	err = errors.Join(err, gerr, errors.Join(warnings...))
	for _, folder := range left {
		// It is not mounted any more. A folder with something in it is still mounted, or not ours.
		err = errors.Join(err, os.Remove(folder))
	}
	if err != nil {
		warn(fmt.Errorf("remove temporary mounts of an earlier process: %w", err))
	}
	return nil
}
