package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"swarm/cli"
	"swarm/internal/private"
)

const (
	// startTimeout bounds how long a daemon may take to answer; it takes well under a second unless the disk is very slow.
	startTimeout = 60 * time.Second
	// logTail is how much is shown, in bytes, of the log of a daemon that died.
	logTail = 2 << 10
)

// startDaemon has a daemon with the default options running, and returns when it answers: as a service where systemd is,
// else by itself. Nil: one runs already.
func startDaemon(ctx context.Context, r cli.StartRequest) (*cli.StartedDaemon, error) {
	switch conn, err := net.Dial("unix", r.Socket); {
	case err == nil:
		return nil, conn.Close()
	case errors.Is(err, os.ErrPermission):
		return nil, nil // One may well be running: the call that follows is refused with the reason.
	case os.Geteuid() != 0:
		return nil, errdefs.ErrPermissionDenied.WithMessage("the swarm daemon is not running on this host, and only root can start it: run this command as root")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	i := newInstaller()
	if !r.NoSystemd && i.host.Systemd() {
		return i.Install(ctx)
	}
	started, err := detached(ctx, filepath.Join(cli.DefaultStateDir, "daemon.log"))
	if err != nil {
		return nil, fmt.Errorf("start the swarm daemon: %w", err)
	}
	started.Undo = i.end
	return started, nil
}

// detached starts a daemon that outlives this process, its terminal and its session.
func detached(ctx context.Context, logFile string) (*cli.StartedDaemon, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := private.Folder(filepath.Dir(logFile)); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	began, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	ready, err := listenReady()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.Command(runningProgram, "daemon", "--log-file", logFile)
	cmd.Args[0] = program
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = append(os.Environ(), ready.env())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, cmd, ready); err != nil {
		return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%v: see %s, which ends with: %s", err, logFile, tail(log, began)))
	}
	return &cli.StartedDaemon{PID: cmd.Process.Pid, Log: logFile, Program: program}, nil
}

// awaitReady returns when the daemon has said that it is ready. One that did not in time is ended.
func awaitReady(ctx context.Context, cmd *exec.Cmd, ready *readySocket) error {
	// A daemon that dies says nothing: its end unblocks the wait. One that serves is waited for by the init process, because
	// this process ends before it.
	died := make(chan struct{})
	go func() {
		_ = cmd.Wait() // What there is to know is in its ProcessState.
		_ = ready.Close()
		close(died)
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err := ready.wait()
	if err == nil && stop() {
		return nil
	}
	<-died
	if ctx.Err() != nil {
		return fmt.Errorf("it did not answer: %w", context.Cause(ctx))
	}
	return fmt.Errorf("it ended at once (%s)", cmd.ProcessState)
}

// tail is the end of what a log has got since an offset, in one line.
func tail(log *os.File, since int64) string {
	size, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	from := max(since, size-logTail)
	text := make([]byte, size-from)
	if _, err := log.ReadAt(text, from); err != nil {
		return err.Error()
	}
	if from > since {
		_, text, _ = bytes.Cut(text, []byte("\n")) // The first line is not whole.
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}
