package command

import (
	"context"
	"io"
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

// Conn is a connection to a daemon.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// DefaultHost is the socket of the local daemon, as -H takes it.
const DefaultHost = "unix:///run/swarm/swarm.sock"

// DefaultPort is the port of daemons that answer on the network.
const DefaultPort = 2377

// Target names a daemon.
type Target struct {
	// Network is "unix" or "tcp"; Address a path or host:port.
	Network, Address string
	// Credential is the file of the client certificate for tcp; see DecodeCredential.
	Credential string
}

// String returns the target as -H takes it.
func (t Target) String() string { return t.Network + "://" + t.Address }

func (t Target) port() string {
	_, port, _ := net.SplitHostPort(t.Address)
	return port
}

// ParseHost parses a value of -H and SWARM_HOST: unix:///PATH, tcp://HOST[:PORT], HOST[:PORT], or
// an absolute path.
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
	addr, err := WithPort(addr)
	if err != nil {
		return Target{}, usage.Invalidf("host %q is not valid: %s; use unix:///PATH or tcp://HOST[:PORT]", s, err)
	}
	return Target{Network: "tcp", Address: addr}, nil
}

// WithPort returns addr as HOST:PORT, with DefaultPort if it has no port. It returns an invalid
// argument error if the host is missing or the port is not one from 1 to 65535.
func WithPort(addr string) (string, error) {
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

// Target returns the daemon that the command line is for: -H, else SWARM_HOST, else the local one.
func (d *Deps) Target() (Target, error) {
	host := d.host
	if host == "" {
		host = d.Env("SWARM_HOST")
	}
	if host == "" {
		host = DefaultHost
	}
	t, err := ParseHost(host)
	if err != nil || t.Network != "tcp" {
		return t, err
	}
	for _, path := range []string{d.credential, d.Env("SWARM_CREDENTIAL"), d.configPath("credential.pem")} {
		if path != "" {
			t.Credential = path
			break
		}
	}
	return t, nil
}

// configPath returns the path of a file in the user's configuration folder, or "" if there is no
// such folder.
func (d *Deps) configPath(name string) string {
	if dir := d.Env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "swarm", name)
	}
	if home := d.Env("HOME"); home != "" {
		return filepath.Join(home, ".config", "swarm", name)
	}
	return ""
}

// Client has the gRPC clients of one daemon's services.
type Client struct {
	swarmv1.ControlClient
	Daemon swarmv1.DaemonClient
	CA     swarmv1.CAClient
	Disks  swarmv1.DisksClient
	// Volumes are those of all nodes.
	Volumes swarmv1.VolumesClient
	Stats   swarmv1.StatsClient
}

// Connect connects to the daemon that the command line names, runs fn, and closes the connection.
// The error is that of the connection or of fn, passed through Explain.
func (d *Deps) Connect(ctx context.Context, fn func(Client) error) error {
	t, err := d.Target()
	if err != nil {
		return err
	}
	conn, err := d.Dial(ctx, t)
	if err != nil {
		return d.Explain(err)
	}
	defer conn.Close()
	noticed := staleWarner{ClientConnInterface: conn, deps: d}
	return d.Explain(fn(Client{
		ControlClient: swarmv1.NewControlClient(noticed),
		Daemon:        swarmv1.NewDaemonClient(conn),
		CA:            swarmv1.NewCAClient(conn),
		Disks:         swarmv1.NewDisksClient(conn),
		Volumes:       swarmv1.NewVolumesClient(noticed),
		Stats:         swarmv1.NewStatsClient(noticed),
	}))
}

// staleWarner is a connection that asks for stale answers if the user gave --stale. It warns once
// when a manager says that its answer may be stale.
type staleWarner struct {
	grpc.ClientConnInterface
	deps *Deps
}

// Invoke implements grpc.ClientConnInterface.
func (n staleWarner) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if n.deps.acceptStale {
		ctx = metadata.AppendToOutgoingContext(ctx, stale.Accept, "1")
	}
	var header metadata.MD
	err := n.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, grpc.Header(&header))...)
	if notice := header.Get(stale.Notice); err == nil && len(notice) > 0 && n.deps.stale == "" {
		n.deps.stale = notice[0]
		term.Printf(n.deps.Err, "Warning: %s\n", notice[0])
	}
	return err
}

// DefaultStateDir is the folder in which a daemon keeps the files that must survive a reboot.
// DefaultRunDir is the folder for its other files.
const (
	DefaultStateDir = "/var/lib/swarm"
	DefaultRunDir   = "/run/swarm"
)
