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
	// maxSocketPath is the longest socket path in bytes that the kernel accepts (sun_path without
	// its terminating zero).
	maxSocketPath = 107
	// maxLocalConns limits the connections of local users. The listener closes further connections,
	// so their users get an error.
	maxLocalConns = 1024
)

// ListenUnix opens the local socket for the CLI. Root may open the socket, and so may the members
// of group if that group exists. A user that may open the socket may do everything. ListenUnix
// replaces a socket on which nobody listens, and returns errdefs.ErrAlreadyExists if a daemon
// answers there.
func ListenUnix(path, group string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("listen on %s: the path has %d characters, a socket path may have at most %d: choose a shorter path", path, len(path), maxSocketPath))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// A socket gets the mode that its descriptor has at bind, so the socket is never open to other
	// users.
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
	if err := shareWithGroup(path, group); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &unixListener{Listener: ln}, nil
}

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("listen on %s: the file is not a socket: remove it", path))
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("listen on %s: another swarm daemon is running and answers there", path))
	}
	return os.Remove(path)
}

// shareWithGroup lets the members of group use the socket. It does nothing if there is no such
// group.
func shareWithGroup(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil //nolint:nilerr // without the group, only root may open the socket
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

// unixListener adds the identity of the peer process, as the kernel reports it, to each connection.
type unixListener struct {
	net.Listener
	open atomic.Int64
}

// localConn calls closed when it is closed, so that the listener can count its open connections.
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
		if err != nil || l.open.Load() >= maxLocalConns { // the client has closed the connection already, or there are too many
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
		return nil, errdefs.ErrInternal.WithMessage("identify local user: the connection is not a unix socket")
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
