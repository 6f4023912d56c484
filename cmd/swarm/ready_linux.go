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
	readyMessage  = "READY=1"
)

// readySocket is where a daemon says that it is ready.
type readySocket struct{ conn *net.UnixConn }

// listenReady makes a socket without a file: nothing is left should this process be killed.
func listenReady() (*readySocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: "@swarm-start-" + ident.NewID()})
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
			if line == readyMessage {
				return nil
			}
		}
	}
}

func (s *readySocket) Close() error { return s.conn.Close() }

// readyNotifier gives the function that tells whoever started this process that it is ready. The variable is taken out of
// the environment, lest the processes that this one starts speak in its name.
func readyNotifier() (func() error, error) {
	address := os.Getenv(readyVariable)
	if err := os.Unsetenv(readyVariable); err != nil {
		return nil, err
	}
	if address == "" {
		return func() error { return nil }, nil
	}
	return func() error {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: address})
		if err != nil {
			return fmt.Errorf("tell that the daemon is ready: %w", err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(readyMessage)); err != nil {
			return fmt.Errorf("tell that the daemon is ready: %w", err)
		}
		return nil
	}, nil
}
