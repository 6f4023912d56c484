//go:build linux

package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// mountDisk mounts a file system on the host's state folder if Options.Disk is set. The file system
// is in a file beside the folder. The file stays when the host is turned off.
func (r *record) mountDisk(h *hostRecord) error {
	if r.Disk == 0 {
		return nil
	}
	dir, image := r.stateDir(h.Name), filepath.Join(r.Root, h.Name+".disk")
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m.Mountpoint == dir }) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		if err := makeDisk(image, r.Disk); err != nil {
			return err
		}
	}
	return command("mount", "-o", "loop", image, dir)
}

func makeDisk(image string, size int64) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	return command("mkfs.ext4", "-q", "-F", image)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
