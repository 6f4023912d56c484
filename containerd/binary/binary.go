//go:build linux

// Package binary owns <data>/bin, which has one folder for each build of swarm that is in use on
// the host, with the program, the same program under the shim's name, and runc.
//
// The runtime process and the shims run from these copies and not from the installed program, so
// that an upgrade replaces no file of a running container: a shim must match the containerd that
// started it. A folder appears complete or not at all. On a file system that is mounted noexec, the
// package returns ErrFailedPrecondition. The daemon calls Install when it starts and Prune from
// time to time; several daemons may do so at the same time. The package runs no goroutine.
package binary

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/containerd/runc"
	"swarm/containerd/shim"
)

// Names of the programs in a build's folder.
const (
	programName  = "swarm"
	runcName     = "runc"
	manifestName = "manifest.json"
)

// Set has the paths of the programs of one build.
type Set struct {
	Build   string
	Dir     string
	Program string // run `Program runtime` for the runtime process
	Shim    string
	Runc    string // BinaryName of the runc options of every container
}

// Source says from what a build is made.
type Source struct {
	// Program is the running program: os.Executable.
	Program string
	// Runc is the embedded runc. If it is nil, RuncPath is copied instead.
	Runc     []byte
	RuncPath string
}

// Install returns the programs of a build below dir, and makes or repairs them if necessary.
// ErrInvalidArgument: build is not a file name. ErrFailedPrecondition: no program can be started
// from dir.
func Install(dir, build string, src Source) (Set, error) {
	if build == "" || build[0] == '.' || strings.ContainsRune(build, '/') {
		return Set{}, fmt.Errorf("install build %q: no file name: %w", build, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Set{}, fmt.Errorf("install build %s: %w", build, err)
	}
	if err := refuseNoexec(dir); err != nil {
		return Set{}, err
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return Set{}, fmt.Errorf("install build %s: %w", build, err)
	}
	defer unlock()

	set := setIn(dir, build)
	if verifySet(set) == nil {
		return set, nil
	}
	if err := removeLeftovers(dir); err != nil {
		return Set{}, fmt.Errorf("install build %s: %w", build, err)
	}
	if err := replace(dir, build, src); err != nil {
		return Set{}, fmt.Errorf("install build %s in %s: %w", build, dir, err)
	}
	return set, nil
}

// InstallSelf installs the running program, of the given version, with the runc that it carries, or
// with the host's if it carries none.
func InstallSelf(dir, version string) (Set, error) {
	const self = "/proc/self/exe" // The path of the program may lead to another file after an upgrade.
	build, err := BuildID(self, version)
	if err != nil {
		return Set{}, err
	}
	src := Source{Program: self, Runc: runc.Embedded()}
	if src.Runc == nil {
		if src.RuncPath, err = runc.Host(); err != nil {
			return Set{}, err
		}
	}
	set, err := Install(dir, build, src)
	return set, errors.Join(err, runc.Forget())
}

func setIn(dir, build string) Set {
	d := filepath.Join(dir, build)
	return Set{
		Build:   build,
		Dir:     d,
		Program: filepath.Join(d, programName),
		Shim:    filepath.Join(d, shim.Name),
		Runc:    filepath.Join(d, runcName),
	}
}

// replace makes a new folder of the build beside the old one, and renames it into place. Processes
// that run from the old folder keep their files.
func replace(dir, build string, src Source) error {
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp, src); err != nil {
		return err
	}
	final := filepath.Join(dir, build)
	old := tmp + ".old"
	if err := os.Rename(final, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	defer os.RemoveAll(old)
	return os.Rename(tmp, final)
}

func fill(dir string, src Source) error {
	var m manifest
	program, err := os.Open(src.Program)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := m.add(dir, programName, program); err != nil {
		return err
	}
	// A link saves disk space, and memory, because all processes share the pages. The link is in
	// the same folder, because a shim must find its own name there.
	if err := os.Link(filepath.Join(dir, programName), filepath.Join(dir, shim.Name)); err != nil {
		if _, err := program.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := m.add(dir, shim.Name, program); err != nil {
			return err
		}
	} else if err := m.addLink(dir, shim.Name, programName); err != nil {
		return err
	}
	oci, err := openRunc(src)
	if err != nil {
		return err
	}
	defer oci.Close()
	if err := m.add(dir, runcName, oci); err != nil {
		return err
	}
	return m.write(dir)
}

// refuseNoexec returns an error if no program can be started from a folder.
func refuseNoexec(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("install in %s: %w", dir, err)
	}
	if fs.Flags&unix.ST_NOEXEC == 0 {
		return nil
	}
	return fmt.Errorf("%s is on a file system mounted noexec, from which shims and runc cannot be started: "+
		"choose another folder with --state-dir, or remount that file system with exec: %w", dir, errdefs.ErrFailedPrecondition)
}

// lockDir locks dir against other processes that change it.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// removeLeftovers removes what an Install that was killed has left.
func removeLeftovers(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
