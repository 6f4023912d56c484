//go:build linux

package companion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a running process that need not be a child. Its handle is the kernel's pidfd, which
// always means this process, while a process id may be reused.
type process struct {
	pid int
	// handle is nil on kernels before 5.3, which have no pidfd. The process is then polled.
	handle *os.File
}

// pollInterval is the time between two looks at a process without a handle.
const pollInterval = 250 * time.Millisecond

func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ENOSYS) {
		return &process{pid: pid}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	// Non-blocking, so that the Go poller watches it.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &process{pid: pid, handle: os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (p *process) close() {
	if p.handle != nil {
		p.handle.Close()
	}
}

// wait returns nil when the process has ended, and reaps it if it is a child. Its error is that of
// ctx, or of the handle.
func (p *process) wait(ctx context.Context) error {
	if p.handle == nil {
		return p.poll(ctx)
	}
	raw, err := p.handle.SyscallConn()
	if err != nil {
		return err
	}
	if err := p.handle.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cancelled)
		_ = p.handle.SetReadDeadline(time.Unix(1, 0))
	})
	err = raw.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if !stop() {
		<-cancelled // The deadline must be set before a later call of wait clears it.
	}
	if err == nil {
		p.reap()
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readable reports whether a handle is readable, which means that its process has ended.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 && err == nil
}

// poll is wait for a process without a handle.
func (p *process) poll(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		p.reap()
		if err := unix.Kill(p.pid, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (p *process) reap() {
	for {
		if _, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
			return // The process is reaped, or is not a child of this one.
		}
	}
}

// stop ends the process with SIGTERM, and with SIGKILL if it takes longer than stopGrace.
func (p *process) stop(ctx context.Context) error {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := p.signal(sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop runtime process %d: %w", p.pid, err)
		}
		grace, cancel := context.WithTimeout(ctx, stopGrace)
		err := p.wait(grace)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("stop runtime process %d: %w", p.pid, err)
		}
	}
	return fmt.Errorf("stop runtime process %d: it does not end even by force: %w", p.pid, context.DeadlineExceeded)
}

func (p *process) signal(sig unix.Signal) error {
	if p.handle == nil {
		return unix.Kill(p.pid, sig)
	}
	raw, err := p.handle.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	return errors.Join(cerr, err)
}

// runs reports whether the process was started with the arguments args.
func (p *process) runs(args []string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if err != nil {
		return false
	}
	return slices.Equal(args, strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00"))
}

// openLog opens the runtime's log. It renames a log of more than logLimit bytes first. The log need
// not survive a power cut, so the rename is not synced.
func openLog(path string) (*os.File, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Size() > logLimit:
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// withoutSystemd removes the variables through which systemd talks to the daemon, because they are
// not meant for the runtime process.
func withoutSystemd(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "NOTIFY_SOCKET" || name == "WATCHDOG_PID" || name == "WATCHDOG_USEC" || strings.HasPrefix(name, "LISTEN_")
	})
}
