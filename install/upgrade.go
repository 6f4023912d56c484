//go:build linux

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	swarmv1 "swarm/proto/swarm/v1"

	"swarm/internal/durable"
)

// ReplaceSignal asks a daemon to exec the program that is installed in its place.
const ReplaceSignal = syscall.SIGUSR2

// inspectTimeout bounds how long a program may take to name its version.
const inspectTimeout = 20 * time.Second

// Staged is a copy of a program that may be installed.
type Staged struct {
	Path    string
	Version *swarmv1.VersionInfo
}

// maxProgram is the largest size of a program that Stage copies, in bytes. swarm has about 50 MiB.
const maxProgram = 1 << 30

// Stage copies the program at path into a new folder in stateDir, which only root can write, and
// asks the copy for its version. The caller must install the copy, because the file at path may
// change. release removes the copy. The error is ErrInvalidArgument if the file is not a swarm that
// runs on this host.
func Stage(ctx context.Context, path, stateDir string) (p Staged, release func() error, err error) {
	dir, err := os.MkdirTemp(stateDir, "upgrade-")
	if err != nil {
		return p, nil, fmt.Errorf("copy %s: %w", path, err)
	}
	release = func() error { return os.RemoveAll(dir) }
	staged := filepath.Join(dir, "swarm")
	if err = copyRegular(path, staged); err == nil {
		p, err = inspect(ctx, path, staged)
	}
	if err != nil {
		return p, nil, errors.Join(err, release())
	}
	return p, release, nil
}

// copyRegular copies a regular file. It refuses every other kind, and does not wait for the writer
// of a FIFO.
func copyRegular(path, to string) error {
	from, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	switch info, err := from.Stat(); {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not a regular file: name the file of a program", path))
	case info.Size() > maxProgram:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s has %d bytes: no swarm has more than %d", path, info.Size(), maxProgram))
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(from, maxProgram)) // the file may grow
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", path, to, err)
	}
	return nil
}

// inspect asks the program staged for its version. Errors name path, the file that the user gave.
func inspect(ctx context.Context, path, staged string) (Staged, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, staged, "-H", "unix:///nonexistent", "version", "--format", "{{json .Client}}")
	out, err := cmd.Output()
	var v swarmv1.VersionInfo
	if len(out) > 0 { // it exits with 1, because it is given no daemon
		err = json.Unmarshal(out, &v)
	}
	if err == nil && v.Build == "" {
		err = errors.New("it does not name its build")
	}
	if err != nil {
		return Staged{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not a swarm that runs on this host: %v", path, err))
	}
	if v.Os != runtime.GOOS || v.Arch != runtime.GOARCH {
		return Staged{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is for %s/%s, and this host is %s/%s", path, v.Os, v.Arch, runtime.GOOS, runtime.GOARCH))
	}
	return Staged{Path: staged, Version: &v}, nil
}

// Replace puts a staged program in the place of the program that the daemon behind socket runs, and
// sends the daemon the signal to exec it. It returns the path of the program, and a function that
// puts the former program back.
func Replace(socket string, p Staged) (installed string, undo func() error, err error) {
	pid, err := DaemonBehind(socket)
	if err != nil {
		return "", nil, err
	}
	installed, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", nil, fmt.Errorf("find the program of daemon %d: %w", pid, err)
	}
	installed = strings.TrimSuffix(installed, " (deleted)")
	undo, err = putInPlace(p.Path, installed)
	if err != nil {
		return "", nil, fmt.Errorf("install %s as %s: %w", p.Path, installed, err)
	}
	if err := syscall.Kill(pid, ReplaceSignal); err != nil {
		return "", nil, errors.Join(fmt.Errorf("restart daemon %d: %w", pid, err), undo())
	}
	return installed, undo, nil
}

// putInPlace replaces target by a copy of file in one step, and returns a function that undoes the
// replacement. The former target stays beside the new one as NAME.old.
func putInPlace(file, target string) (undo func() error, err error) {
	from, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	old := target + ".old"
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.Link(target, old); err != nil {
		return nil, err
	}
	return func() error { return os.Rename(old, target) }, durable.Replace(target, from, 0o755)
}
