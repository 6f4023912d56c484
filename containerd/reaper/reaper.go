//go:build linux

// Package reaper is the first process of a container whose service asks for an init process. It
// starts the container's command, forwards every signal to it, reaps the orphans that the kernel
// makes its children, and ends with the command's exit code.
//
// It reads no file. cmd/swarm calls Main when the program was started under the reaper's name, as
// runc starts it in a container. The package starts no goroutine; the Go runtime has one that
// receives signals.
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Name is the file name under which the program runs as a reaper.
const Name = "swarm-init"

// Exit codes for a command that could not be started, as in shells and Docker.
const (
	codeNotFound   = 127
	codeNotStarted = 126
)

// Invoked reports whether the program was started as a reaper.
func Invoked(args []string) bool {
	return len(args) > 0 && filepath.Base(args[0]) == Name
}

// Main runs `swarm-init [--] COMMAND [ARG...]` and returns the exit code: that of the command, 128
// plus the number of the signal that ended it, 127 if it was not found, or 126 if it could not be
// started.
func Main(args []string) int {
	command := args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		fmt.Fprintln(os.Stderr, Name+": no command")
		return codeNotStarted
	}
	signals := make(chan os.Signal, 128)
	signal.Notify(signals)
	child, err := start(command)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name, err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return codeNotFound
		}
		return codeNotStarted
	}
	for sig := range signals {
		switch sig {
		case unix.SIGCHLD:
			if code, ended := reap(child); ended {
				return code
			}
		case unix.SIGURG: // The Go runtime uses it.
		default:
			// The command may have ended. Then its SIGCHLD comes next.
			_ = unix.Kill(child, sig.(syscall.Signal))
		}
	}
	return 0 // Unreachable, because signals is never closed.
}

// start runs the command in the foreground of the terminal, if there is one.
func start(command []string) (pid int, err error) {
	path, err := exec.LookPath(command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, err
	}
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		attr.Sys.Foreground = true
		attr.Sys.Ctty = 0
	}
	pid, err = syscall.ForkExec(path, command, attr)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", command[0], err)
	}
	return pid, nil
}

// reap collects all children that have ended. ended says that the command is among them, and code
// is its exit code.
func reap(command int) (code int, ended bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return code, ended
		}
		if pid != command {
			continue
		}
		ended = true
		code = status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
	}
}
