//go:build linux

package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/internal/notify"
	"swarm/internal/private"
)

const (
	// logTail is how many bytes of the end of the log are shown when a daemon has died.
	logTail = 2 << 10
	// lockTimeout bounds the wait for the lock of a daemon that was killed. The daemon holds the
	// lock until the kernel has ended its threads, and the children that it was just starting, one
	// after another.
	lockTimeout = 3 * time.Second
	// endTimeout bounds how long a daemon may take to end after SIGTERM.
	endTimeout = 20 * time.Second
	// lockPoll is how often a lock that another process holds is tried.
	lockPoll = 20 * time.Millisecond
)

// Detach starts a daemon that outlives this process, its terminal and its session, and returns when
// the daemon is ready. The daemon's command line begins with program, but the daemon runs the file
// content. If the daemon ends, or is not ready when ctx ends, Detach kills the daemon and returns
// ErrUnavailable with the end of its log.
func Detach(ctx context.Context, program, content, logFile string) (pid int, err error) {
	if err := private.Folder(filepath.Dir(logFile)); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	began, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	ready, err := notify.Listen()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	cmd := exec.Command(content, "daemon", "--log-file", logFile)
	cmd.Args[0] = program
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = append(os.Environ(), ready.Env())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := awaitReady(ctx, cmd, ready); err != nil {
		return 0, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%v: see %s, which ends with: %s", err, logFile, tail(log, began)))
	}
	return cmd.Process.Pid, nil
}

// awaitReady returns when the daemon has reported that it is ready. If ctx ends earlier, it kills
// the daemon.
func awaitReady(ctx context.Context, cmd *exec.Cmd, ready *notify.Socket) error {
	// A daemon that dies reports nothing, so this goroutine ends the wait. A daemon that has
	// reported outlives this process, and the init process reaps it.
	died := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the result is in ProcessState
		_ = ready.Close()
		close(died)
	}()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err := ready.Wait()
	if err == nil && stop() {
		return nil
	}
	<-died
	if ctx.Err() != nil {
		return fmt.Errorf("it did not answer: %w", context.Cause(ctx))
	}
	return fmt.Errorf("it ended at once (%s)", cmd.ProcessState)
}

// tail returns the last lines after an offset of a log, joined to one line.
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
		_, text, _ = bytes.Cut(text, []byte("\n")) // the first line is cut
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}

// EndDaemon sends SIGTERM to a daemon and returns when it has released its state folder.
func EndDaemon(pid int, stateDir string) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop daemon %d: %w", pid, err)
	}
	f, err := os.OpenFile(lockFile(stateDir), os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if !lock(f, endTimeout) {
		return fmt.Errorf("daemon %d has not ended within %s: end it with `kill -9 %d` and try again", pid, endTimeout, pid)
	}
	return nil
}

// LockState makes sure that only one daemon uses a state folder. It makes the folder if there is
// none.
func LockState(dir string) (unlock func(), err error) {
	if err := private.Folder(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(lockFile(dir), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if !lock(f, lockTimeout) {
		_ = f.Close()
		return nil, fmt.Errorf("another swarm daemon uses %s: stop it, or give this one another --state-dir", dir)
	}
	return func() { _ = f.Close() }, nil
}

func lockFile(stateDir string) string { return filepath.Join(stateDir, "lock") }

// lock reports whether it got the lock before timeout. Closing f releases it.
func lock(f *os.File, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		<-time.After(lockPoll)
	}
}

// DaemonBehind returns the process that listens on a socket. Errors: fs.ErrNotExist and
// ECONNREFUSED if none does.
func DaemonBehind(socket string) (int, error) {
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
		return 0, fmt.Errorf("find the process that serves %s: %w", socket, err)
	}
	return int(cred.Pid), nil
}
