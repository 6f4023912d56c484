package main

import (
	"fmt"
	"net"
	"os"
	"strings"

	"swarm/internal/ident"
)

// Readiness is told as to systemd (sd_notify(3)): whoever starts a daemon names a datagram socket in the environment.

const (
	readyVariable = "NOTIFY_SOCKET"
	saysReady     = "READY=1"
	// startPrefix begins the sockets of our own commands.
	startPrefix = "@swarm-start-"
)

// readySocket is where a daemon says that it is ready.
type readySocket struct{ conn *net.UnixConn }

// listenReady makes a socket without a file: nothing is left should this process be killed.
func listenReady() (*readySocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: startPrefix + ident.NewID()})
	if err != nil {
		return nil, err
	}
	return &readySocket{conn}, nil
}

func (s *readySocket) env() string { return readyVariable + "=" + s.conn.LocalAddr().String() }

// wait returns when the message has come, or with an error when s is closed.
func (s *readySocket) wait() error {
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if line == saysReady {
				return nil
			}
		}
	}
}

func (s *readySocket) Close() error { return s.conn.Close() }

// starter is whoever started this process, and wants to hear of it; empty: nobody does.
type starter string

// takeStarter takes the variable out of the environment, lest the processes that this one starts speak in its name.
func takeStarter() (starter, error) {
	address := os.Getenv(readyVariable)
	return starter(address), os.Unsetenv(readyVariable)
}

// tell says how this process is (sd_notify(3)).
func (s starter) tell(state string) error {
	if s == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: string(s)})
	if err != nil {
		return fmt.Errorf("tell how the daemon is: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell how the daemon is: %w", err)
	}
	return nil
}

// env is for a program that takes this one's place: a service manager goes on listening, a command has long ended.
func (s starter) env() []string {
	if s == "" || strings.HasPrefix(string(s), startPrefix) {
		return nil
	}
	return []string{readyVariable + "=" + string(s)}
}
