package cli

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/stale"
	swarmv1 "swarm/proto/swarm/v1"
)

// DefaultHost is the local daemon's socket.
const DefaultHost = "unix:///run/swarm/swarm.sock"

// DefaultPort is where nodes answer.
const DefaultPort = 2377

// Target names a daemon.
type Target struct {
	// Network is "unix" or "tcp"; Address a path or host:port.
	Network, Address string
	// Credential is the file of the client certificate for tcp; see DecodeCredential.
	Credential string
}

// String is the target as -H takes it.
func (t Target) String() string { return t.Network + "://" + t.Address }

func (t Target) port() string {
	_, port, _ := net.SplitHostPort(t.Address)
	return port
}

// ParseHost reads what -H and SWARM_HOST take: unix:///path, tcp://host[:port], host[:port], or an absolute path.
func ParseHost(s string) (Target, error) {
	switch {
	case strings.HasPrefix(s, "unix://"):
		path := strings.TrimPrefix(s, "unix://")
		if !filepath.IsAbs(path) {
			return Target{}, usage.Invalidf("host %q is not valid: the socket's path must be absolute, as in unix:///run/swarm/swarm.sock", s)
		}
		return Target{Network: "unix", Address: path}, nil
	case filepath.IsAbs(s):
		return Target{Network: "unix", Address: s}, nil
	}
	addr := strings.TrimPrefix(s, "tcp://")
	if strings.Contains(addr, "/") {
		return Target{}, usage.Invalidf("host %q is not valid: use unix:///PATH or tcp://HOST[:PORT]", s)
	}
	addr, err := withPort(addr)
	if err != nil {
		return Target{}, usage.Invalidf("host %q is not valid: %s; use unix:///PATH or tcp://HOST[:PORT]", s, err)
	}
	return Target{Network: "tcp", Address: addr}, nil
}

// withPort adds the default port to a host without one and checks the one that is there.
func withPort(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), strconv.Itoa(DefaultPort)
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", usage.Invalidf("an IPv6 address with a port needs brackets")
		}
	}
	if host == "" {
		return "", usage.Invalidf("the host is missing")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", usage.Invalidf("port %q is not a number from 1 to 65535", port)
	}
	return net.JoinHostPort(host, port), nil
}

// target is the daemon that this command line is for.
func (a *app) target() (Target, error) {
	host := a.host
	if host == "" {
		host = a.Env("SWARM_HOST")
	}
	if host == "" {
		host = DefaultHost
	}
	t, err := ParseHost(host)
	if err != nil || t.Network != "tcp" {
		return t, err
	}
	for _, path := range []string{a.credential, a.Env("SWARM_CREDENTIAL"), a.configPath("credential.pem")} {
		if path != "" {
			t.Credential = path
			break
		}
	}
	return t, nil
}

// configPath is a file in the user's configuration folder, "" when there is no such folder.
func (a *app) configPath(name string) string {
	if dir := a.Env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "swarm", name)
	}
	if home := a.Env("HOME"); home != "" {
		return filepath.Join(home, ".config", "swarm", name)
	}
	return ""
}

// client is the APIs of one daemon. Its errors are for users already.
type client struct {
	swarmv1.ControlClient
	daemon swarmv1.DaemonClient
	ca     swarmv1.CAClient
	disks  swarmv1.DisksClient
}

// with connects, runs fn, closes, and explains what went wrong.
func (a *app) with(ctx context.Context, fn func(client) error) error {
	t, err := a.target()
	if err != nil {
		return err
	}
	conn, err := a.Dial(ctx, t)
	if err != nil {
		return a.explain(err)
	}
	defer conn.Close()
	noticed := noticing{ClientConnInterface: conn, app: a}
	return a.explain(fn(client{
		ControlClient: swarmv1.NewControlClient(noticed),
		daemon:        swarmv1.NewDaemonClient(conn),
		ca:            swarmv1.NewCAClient(conn),
		disks:         swarmv1.NewDisksClient(conn),
	}))
}

// noticing asks for old answers if the user wants them, and says on stderr, once, when an answer may be old.
type noticing struct {
	grpc.ClientConnInterface
	app *app
}

func (n noticing) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if n.app.acceptStale {
		ctx = metadata.AppendToOutgoingContext(ctx, stale.Accept, "1")
	}
	var header metadata.MD
	err := n.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, grpc.Header(&header))...)
	if notice := header.Get(stale.Notice); err == nil && len(notice) > 0 && n.app.stale == "" {
		n.app.stale = notice[0]
		term.Printf(n.app.Err, "Warning: %s\n", notice[0])
	}
	return err
}
