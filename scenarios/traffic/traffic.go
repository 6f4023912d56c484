// Package traffic has the traffic between the containers of scenarios, and the client with which a
// test controls it.
//
// The test image serves Handle over HTTP, and Echo on a port of its own. Through a Client a test
// has a container try to reach others, or watch them continuously and report. There is one
// goroutine for each watch and for each held connection, until the container ends.
package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// answerTimeout bounds the time until an answer. On a busy machine a correct answer may be late.
const answerTimeout = 5 * time.Second

// Target is an echo server.
type Target struct {
	// Network is "tcp" or "udp".
	Network string
	// Address is a host, by name or IP address, and a port.
	Address string
}

// Answer is the result of a try.
type Answer struct {
	Target
	// Host is the name of the container that answered. Client is the client's address, without
	// port, as that container saw it.
	Host, Client string
	// Err is the reason for a failure, empty if there was an answer.
	Err string
}

// Echo answers every line (TCP) and datagram (UDP) with the container's name, the address that the
// line came from, and the line, until ctx ends. It returns once all clients that were connected by
// then have had an answer.
func Echo(ctx context.Context, address string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer context.AfterFunc(ctx, func() {
		_ = listener.Close()
		_ = packets.Close()
	})()
	go echoPackets(host, packets)
	var unanswered sync.WaitGroup
	defer unanswered.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		unanswered.Add(1)
		go echoLines(host, conn, sync.OnceFunc(unanswered.Done))
	}
}

func echoLines(host string, conn net.Conn, answered func()) {
	defer conn.Close()
	defer answered()
	in := bufio.NewScanner(conn)
	for in.Scan() {
		if _, err := fmt.Fprintf(conn, "%s %s %s\n", host, conn.RemoteAddr(), in.Text()); err != nil {
			return
		}
		answered()
	}
}

func echoPackets(host string, packets net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := packets.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil { // On an error the client did not wait for an answer.
			_, _ = packets.WriteTo(fmt.Appendf(nil, "%s %s %s\n", host, from, strings.TrimSpace(string(buf[:n]))), from)
		}
	}
}

// Dialer opens connections from the network of this process or of a host.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Reach sends one line to an echo server.
func Reach(ctx context.Context, dial Dialer, t Target) Answer {
	a := Answer{Target: t}
	c, err := open(ctx, dial, t)
	if err == nil {
		defer c.close()
		a.Host, a.Client, err = c.ask("reach")
	}
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

// connection is a connection to an echo server.
type connection struct {
	conn net.Conn
	in   *bufio.Reader
}

func open(ctx context.Context, dial Dialer, t Target) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := dial(ctx, t.Network, t.Address)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

func (c *connection) close() { _ = c.conn.Close() }

// ask sends a word, and returns the name of the container that answered and the client address that
// it saw.
func (c *connection) ask(word string) (host, client string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return "", "", err
	}
	if _, err := fmt.Fprintln(c.conn, word); err != nil {
		return "", "", err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", "", err
	}
	f := strings.Fields(line)
	if len(f) != 3 || f[2] != word {
		return "", "", fmt.Errorf("%q came back, not %q", line, word)
	}
	if client, _, err = net.SplitHostPort(f[1]); err != nil {
		return "", "", err
	}
	return f[0], client, nil
}
