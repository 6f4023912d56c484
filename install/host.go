//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// Config selects the host.
type Config struct {
	// Root is the top of the host's file system. The default is /. Other values are for tests.
	Root string
	// StateDir is the daemon's state folder. It has the record of the program that was copied.
	StateDir string
}

// Host is a host on which swarm is installed, or will be.
type Host struct{ cfg Config }

// New returns a Host. It does not look at the host.
func New(cfg Config) *Host { return &Host{cfg} }

// Installed is the result of Install.
type Installed struct {
	// Program is the path of the installed program. Copied is set if Install has put it there.
	Program string
	Copied  bool
	// Unit is the name of the service. It is empty if systemd is not the init.
	Unit string
	// Fresh is set if nothing of swarm was installed before.
	Fresh bool
}

// Install puts the program self into its place, unless it is in a folder of programs already, and
// writes and enables the units if systemd is the init. It starts nothing. A second call writes only
// files that are out of date. Install reads the program from content. For the running program,
// content is /proc/self/exe, because the file at the path self may have been replaced since the
// start. The error is ErrPermissionDenied for other users than root.
func (h *Host) Install(ctx context.Context, self, content string) (Installed, error) {
	in := Installed{Program: self}
	before, err := h.record()
	if err != nil {
		return in, err
	}
	in.Fresh = before == "" && !h.exists(filepath.Join(unitDir, Service))
	if !slices.Contains(programDirs, filepath.Dir(self)) {
		in.Program = program
		if in.Copied, err = h.copyProgram(content); err != nil {
			return in, fmt.Errorf("copy %s to %s: %w", self, program, err)
		}
	}
	if !h.Systemd() {
		return in, nil
	}
	in.Unit = Service
	return in, h.writeUnits(ctx, in.Program)
}

// Uninstall undoes Install: it stops and removes the service, and removes the program if Install
// has copied it. It returns the paths that it has removed, even if it fails.
func (h *Host) Uninstall(ctx context.Context) ([]string, error) {
	var removed []string
	units, err := h.removeUnits(ctx)
	removed = append(removed, units...)
	if err != nil {
		return removed, err
	}
	copied, err := h.record()
	if err != nil || copied == "" {
		return removed, err
	}
	// An upgrade leaves the former program beside the new one.
	for _, file := range []string{copied, copied + ".old"} {
		gone, err := h.remove(file)
		if err != nil {
			return removed, err
		}
		if gone {
			removed = append(removed, file)
		}
	}
	_, err = h.remove(h.recordFile())
	return removed, err
}

func (h *Host) path(file string) string { return filepath.Join(h.cfg.Root, "/", file) }

func (h *Host) exists(file string) bool {
	_, err := os.Stat(h.path(file))
	return err == nil
}

// remove reports whether there was a file to remove.
func (h *Host) remove(file string) (bool, error) {
	err := os.Remove(h.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// wantRoot refuses other users than root, with one error instead of one for each file.
func wantRoot(what string) error {
	if os.Geteuid() != 0 {
		return errdefs.ErrPermissionDenied.WithMessage(what + ": run this command as root")
	}
	return nil
}
