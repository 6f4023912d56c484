package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/cli"
	swarmv1 "swarm/proto/swarm/v1"
)

// replaceSignal asks a daemon to end and to run, in the same process, what is installed in its place now.
const replaceSignal = syscall.SIGUSR2

// inspectTimeout bounds how long a program may take to say what it is.
const inspectTimeout = 20 * time.Second

// upgrader implements cli.Upgrader.
type upgrader struct{}

func upgrades() cli.Upgrader { return upgrader{} }

// maxProgram bounds the size of a file that is taken for a program, in bytes; swarm has some 50 MiB.
const maxProgram = 1 << 30

// Stage implements cli.Upgrader.
func (upgrader) Stage(ctx context.Context, path, stateDir string) (p cli.Program, release func() error, err error) {
	dir, err := os.MkdirTemp(stateDir, "upgrade-") // For its owner alone, root.
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

// copyRegular copies a regular file; another kind is refused, without waiting for somebody who writes to it.
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
	_, err = io.Copy(out, io.LimitReader(from, maxProgram)) // It may grow meanwhile.
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", path, to, err)
	}
	return nil
}

// inspect asks the copy of a file, which the user knows as path, which build of swarm it is.
func inspect(ctx context.Context, path, staged string) (cli.Program, error) {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, staged, "-H", "unix:///nonexistent", "version", "--format", "{{json .Client}}")
	out, err := cmd.Output()
	var v swarmv1.VersionInfo
	if len(out) > 0 { // what cannot be reached is the daemon, on purpose
		err = json.Unmarshal(out, &v)
	}
	if err == nil && v.Build == "" {
		err = errors.New("it does not name its build")
	}
	if err != nil {
		return cli.Program{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is not a swarm that runs on this host: %v", path, err))
	}
	if v.Os != runtime.GOOS || v.Arch != runtime.GOARCH {
		return cli.Program{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s is for %s/%s, and this host is %s/%s", path, v.Os, v.Arch, runtime.GOOS, runtime.GOARCH))
	}
	return cli.Program{Path: staged, Version: &v}, nil
}

// Replace implements cli.Upgrader.
func (upgrader) Replace(_ context.Context, socket string, p cli.Program) (string, func() error, error) {
	pid, err := daemonBehind(socket)
	if err != nil {
		return "", nil, err
	}
	installed, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "", nil, fmt.Errorf("find the program of daemon %d: %w", pid, err)
	}
	installed = strings.TrimSuffix(installed, " (deleted)")
	undo, err := putInPlace(p.Path, installed)
	if err != nil {
		return "", nil, fmt.Errorf("install %s as %s: %w", p.Path, installed, err)
	}
	if err := syscall.Kill(pid, replaceSignal); err != nil {
		return "", nil, errors.Join(fmt.Errorf("restart daemon %d: %w", pid, err), undo())
	}
	return installed, undo, nil
}

// daemonBehind is the process that listens on a socket.
func daemonBehind(socket string) (int, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("who serves %s: %w", socket, err)
	}
	return int(cred.Pid), nil
}

// putInPlace puts a file in the place of another at once, and returns what undoes it. The former one is kept beside it, as
// NAME.old, to go back to.
func putInPlace(file, target string) (undo func() error, err error) {
	from, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	tmp, err := os.CreateTemp(filepath.Dir(target), ".swarm-upgrade-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name()) // It is gone already when all went well.
	_, err = io.Copy(tmp, from)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close())
	if err != nil {
		return nil, err
	}
	old := target + ".old"
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.Link(target, old); err != nil {
		return nil, err
	}
	return func() error { return os.Rename(old, target) }, os.Rename(tmp.Name(), target)
}

// become runs the installed program in this process, with the same starter. It returns only an error.
func become(s starter) error {
	program, err := os.Executable() // as it was found at the start: what stands there now is the new one
	if err != nil {
		return fmt.Errorf("restart as the installed build: %w", err)
	}
	return fmt.Errorf("restart as the installed build %s: %w", program, syscall.Exec(program, os.Args, append(os.Environ(), s.env()...)))
}
