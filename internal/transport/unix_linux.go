package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

const (
	// maxSocketPath is the kernel's limit for a socket's path (sun_path, with its closing zero).
	maxSocketPath = 107
	// maxLocal bounds the connections of the host's users. One beyond is closed, which its user is told.
	maxLocal = 1024
)

// ListenUnix opens the local socket for the CLI: for root and the members of group, if that group exists, else for root
// alone. Who may open the socket may do everything. A socket that a dead daemon left is replaced; one that answers is not.
func ListenUnix(path, group string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("listen on %s: the path has %d characters, a socket's may have %d", path, len(path), maxSocketPath))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// A socket has the mode that its descriptor has at bind: so it is never open to others, not even for a moment.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmod
	}}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := share(path, group); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &unixListener{Listener: ln}, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("listen on %s: there is something else than a socket: remove it", path))
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("listen on %s: another swarm daemon is running and answers there", path))
	}
	return os.Remove(path)
}

// share opens the socket to the group, when there is such a group.
func share(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil //nolint:nilerr // no such group: root alone
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// unixListener asks the kernel who connects.
type unixListener struct {
	net.Listener
	open atomic.Int64
}

// localConn is a connection that its listener counts.
type localConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c localConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// Accept implements net.Listener.
func (l *unixListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, err := localUser(conn)
		if err != nil || l.open.Load() >= maxLocal { // it has gone already, or there are too many
			_ = conn.Close()
			continue
		}
		l.open.Add(1)
		counted := localConn{Conn: conn, closed: sync.OnceFunc(func() { l.open.Add(-1) })}
		return &peerConn{Conn: counted, info: AuthInfo{
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
			Local:          who,
		}}, nil
	}
}

func localUser(conn net.Conn) (*LocalUser, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errdefs.ErrInternal.WithMessage("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		cred, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if optErr != nil {
		return nil, optErr
	}
	return &LocalUser{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}
