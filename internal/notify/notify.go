//go:build linux

// Package notify tells whoever started a daemon when it is ready, with systemd's protocol
// (sd_notify(3)): the starter names a datagram socket in the environment, and the daemon writes
// lines such as READY=1 into it. The swarm command and systemd listen in the same way. It has no
// goroutines.
package notify

import (
	"fmt"
	"net"
	"os"
	"strings"

	"swarm/internal/ident"
)

const (
	variable = "NOTIFY_SOCKET"
	// Ready is the state of a daemon that serves.
	Ready = "READY=1"
	// ownPrefix begins the names of the sockets that Listen makes.
	ownPrefix = "@swarm-start-"
)

// Socket is where a daemon reports that it is ready.
type Socket struct{ conn *net.UnixConn }

// Listen makes an abstract socket: it leaves no file behind if this process is killed.
func Listen() (*Socket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: ownPrefix + ident.NewID()})
	if err != nil {
		return nil, err
	}
	return &Socket{conn}, nil
}

// Env is the environment entry that names the socket to a daemon.
func (s *Socket) Env() string { return variable + "=" + s.conn.LocalAddr().String() }

// Wait returns nil once a daemon has reported Ready. It fails after Close.
func (s *Socket) Wait() error {
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if line == Ready {
				return nil
			}
		}
	}
}

// Close ends Wait.
func (s *Socket) Close() error { return s.conn.Close() }

// Starter is the address of the socket at which the starter of this process listens. It is empty if
// no starter listens.
type Starter string

// TakeStarter reads the address from the environment and removes it there, so that child processes
// do not report in this process's name.
func TakeStarter() (Starter, error) {
	address := os.Getenv(variable)
	return Starter(address), os.Unsetenv(variable)
}

// Tell reports a state to the starter: one or more lines of sd_notify(3). Without a starter it does
// nothing.
func (s Starter) Tell(state string) error {
	if s == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: string(s)})
	if err != nil {
		return fmt.Errorf("report the daemon's state to its starter: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("report the daemon's state to its starter: %w", err)
	}
	return nil
}

// Env is the environment of a program that replaces this one by exec. It names the starter only if
// that is still there: a service manager goes on listening, a swarm command has ended.
func (s Starter) Env() []string {
	if s == "" || strings.HasPrefix(string(s), ownPrefix) {
		return nil
	}
	return []string{variable + "=" + string(s)}
}
