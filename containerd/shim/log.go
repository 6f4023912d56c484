//go:build linux

package shim

import (
	"context"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// setLogger makes the shim log to the pipe "log" in the bundle of its first container, which
// containerd reads. containerd's own shim waits until somebody reads the pipe. If containerd is
// killed just before, nobody does: the next containerd deletes the bundle. The shim would then wait
// for ever, with a socket on which it does not answer, and every later set-up of a container of the
// group would hang.
func setLogger(ctx context.Context) {
	_ = log.SetFormat(log.TextFormat) // a known format
	if opts, ok := ctx.Value(shim.OptsKey{}).(shim.Opts); ok && opts.Debug {
		_ = log.SetLevel("debug")
	}
	log.G(ctx).Logger.SetOutput(&logPipe{})
}

// logPipe writes to the pipe if somebody reads it, and drops the text if not.
type logPipe struct {
	mu   sync.Mutex
	file *os.File // nil: not open
}

// Write implements io.Writer. It never fails, and waits only while a reader of a full pipe is slow.
func (l *logPipe) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		// Without a reader, this fails at once.
		f, err := os.OpenFile("log", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return len(p), nil
		}
		l.file = f
		l.redirectStderr()
	}
	_, _ = l.file.Write(p) // A later containerd may read the pipe again, so it stays open.
	return len(p), nil
}

// redirectStderr sends what the Go runtime writes when the shim panics to the pipe.
func (l *logPipe) redirectStderr() {
	conn, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.Dup3(int(fd), unix.Stderr, 0) })
}
