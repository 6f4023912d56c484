//go:build linux

// Package notify tells the program that started a daemon when the daemon is ready. It uses the
// protocol of systemd (sd_notify(3)): the starter puts the name of a datagram socket in the
// environment, and the daemon writes lines such as READY=1 to the socket. Both the swarm command
// and systemd can be the starter. The package runs no goroutine.
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
	// Ready is the line of a daemon that is ready to serve.
	Ready = "READY=1"
	// ownPrefix is the prefix of the names of the sockets that Listen makes.
	ownPrefix = "@swarm-start-"
)

// Socket is the socket on which a starter waits for a daemon.
type Socket struct{ conn *net.UnixConn }

// Listen makes an abstract socket, which leaves no file behind if this process is killed.
func Listen() (*Socket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: ownPrefix + ident.NewID()})
	if err != nil {
		return nil, err
	}
	return &Socket{conn}, nil
}

// Env returns the environment entry that names the socket to a daemon.
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

// Starter is the address of the socket on which the starter of this process listens. It is empty if
// there is none.
type Starter string

// TakeStarter reads the address from the environment and removes it there. A child process could
// otherwise report to the starter as if it were this process.
func TakeStarter() (Starter, error) {
	address := os.Getenv(variable)
	return Starter(address), os.Unsetenv(variable)
}

// Tell sends a state to the starter: one or more lines of sd_notify(3). Without a starter it does
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

// Env returns the environment entry for a program that replaces this one by exec. It is empty if
// the starter was a swarm command, which has ended. A service manager continues to listen.
func (s Starter) Env() []string {
	if s == "" || strings.HasPrefix(string(s), ownPrefix) {
		return nil
	}
	return []string{variable + "=" + string(s)}
}
