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

// Config is data.
type Config struct {
	// Root is the host's file system; empty: /.
	Root string
	// StateDir keeps the record of what was copied.
	StateDir string
}

// Host is the host as swarm is installed on it.
type Host struct{ cfg Config }

// New makes a Host; nothing is looked at before it is asked.
func New(cfg Config) *Host { return &Host{cfg} }

// Installed is what an Install has found or made.
type Installed struct {
	// Program is where the program stands; Copied: it was put there now.
	Program string
	Copied  bool
	// Unit is the name of the service; empty where systemd is not the init.
	Unit string
	// Fresh: nothing of swarm was installed before.
	Fresh bool
}

// Install puts the program self into its place, unless it stands in a folder of programs already, and writes and enables
// the units. It starts nothing. Doing it again changes only what is out of date. The program is read from content, which for
// the running one is /proc/self/exe: somebody else may have put another file at self since it was started.
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

// Uninstall undoes Install: it stops and removes the service, and the program if it was copied. It returns what it has
// removed.
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
	// An upgrade keeps the former program beside it.
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

// remove says whether there was something to remove.
func (h *Host) remove(file string) (bool, error) {
	err := os.Remove(h.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// wantRoot refuses everybody else, who would meet it file by file.
func wantRoot(what string) error {
	if os.Geteuid() != 0 {
		return errdefs.ErrPermissionDenied.WithMessage(what + ": run this command as root")
	}
	return nil
}
