package scenarios

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"swarm/dev"
	"swarm/internal/pki"
)

// attacker is a program on the network of one of the hosts, with a stolen credential or with none.
// It uses TLS directly, because the client checks of internal/transport would refuse its attacks.
type attacker struct {
	c    *testCluster
	at   dev.Host
	cred pki.Credential // zero: anonymous
}

// attacker returns an attacker on the network of a host, with the credential from that host's state
// folder.
func (c *testCluster) attacker(at dev.Host) *attacker {
	c.t.Helper()
	return &attacker{c: c, at: at, cred: c.stolen(at)}
}

// anonymous returns an attacker on the network of a host, without a credential.
func (c *testCluster) anonymous(at dev.Host) *attacker { return &attacker{c: c, at: at} }

// stolen returns the credential in a host's state folder.
func (c *testCluster) stolen(from dev.Host) pki.Credential {
	c.t.Helper()
	cred, _, err := pki.Disk{Dir: filepath.Join(from.StateDir, "certificates")}.Load()
	if err != nil {
		c.t.Fatal(err)
	}
	return cred
}

// dial opens a connection from the attacker's network, without TLS. network is tcp or udp.
func (a *attacker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return a.c.dialFrom(a.at)(ctx, network, address)
}

// tls opens a connection to a host's cluster port for one ALPN protocol ("h2", "swarm-raft/1",
// "swarm-blob/1").
func (a *attacker) tls(ctx context.Context, to dev.Host, alpn string) (*tls.Conn, error) {
	raw, err := a.dial(ctx, "tcp", clusterPort(to))
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, a.config(alpn))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// grpc returns a client of a host's RPCs. The cleanup of the test closes it.
func (a *attacker) grpc(to dev.Host) *grpc.ClientConn {
	a.c.t.Helper()
	dial := func(ctx context.Context, address string) (net.Conn, error) { return a.dial(ctx, "tcp", address) }
	conn, err := grpc.NewClient("passthrough:///"+clusterPort(to), grpc.WithContextDialer(dial), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(a.config("h2"))),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		a.c.t.Fatal(err)
	}
	a.c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// config returns a TLS configuration that accepts any server, because the attacker does not verify
// its target.
func (a *attacker) config(alpn string) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	if a.cred.Cert != nil {
		config.Certificates = []tls.Certificate{a.cred.TLS()}
	}
	return config
}

// clusterPort returns the address at which a host's daemon serves gRPC, Raft and blobs.
func clusterPort(h dev.Host) string { return net.JoinHostPort(h.Address.String(), "2377") }

// resident returns the resident memory of a host's daemon in bytes, as the kernel counts it.
func (c *testCluster) resident(h dev.Host) int64 {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.daemonOf(h)))
	if err != nil {
		c.t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// logLines returns the number of lines in the log of a host's daemon.
func (c *testCluster) logLines(h dev.Host) int {
	c.t.Helper()
	text, err := os.ReadFile(h.Log)
	if err != nil {
		c.t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

// daemonOf returns the process id of a host's daemon, or 0 if the daemon has ended.
func (c *testCluster) daemonOf(h dev.Host) int {
	c.t.Helper()
	now, err := c.playground.Host(h.Name)
	if err != nil {
		c.t.Fatal(err)
	}
	return now.PID
}

// allReady fails unless every host's daemon runs and every node is ready. This must hold after each
// attack.
func (c *testCluster) allReady() {
	c.t.Helper()
	for _, h := range c.hosts {
		if c.daemonOf(h) == 0 {
			c.t.Errorf("the daemon of %s has ended", h.Name)
		}
	}
	c.eventually("all nodes ready", func() error {
		out, err := c.run("node", "ls", "--format", "{{.Hostname}} {{.Status}}")
		if err != nil {
			return err
		}
		if ready := strings.Count(out, " Ready\n"); ready != len(c.hosts) {
			return fmt.Errorf("%d of %d ready:\n%s", ready, len(c.hosts), out)
		}
		return nil
	})
}
