package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type initOptions struct {
	advertise, listen, dataPath string
	availability                flag.Choice
	pools                       []string
	poolMask                    uint32
	dataPort, gossipPort        uint32
	certExpiry, heartbeat       time.Duration
	historyLimit                int64
	historySet                  bool
	noSystemd                   bool
}

// NewInit returns the verb `swarm init`.
func NewInit(deps *command.Deps) *cobra.Command {
	o := initOptions{availability: flag.Choice{Value: "active", Choices: flag.Availabilities}}
	c := command.Verb(&cobra.Command{
		Use: "init [OPTIONS]", Short: "Initialize a swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o.historySet = c.Flags().Changed("task-history-limit")
			return runInit(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	addressFlags(c, &o.advertise, &o.listen, &o.dataPath)
	f.Var(&o.availability, "availability", `Availability of the node ("active", "pause", "drain")`)
	f.DurationVar(&o.certExpiry, "cert-expiry", 0, "Validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)")
	f.Uint32Var(&o.dataPort, "data-path-port", 0, "Port number to use for data path traffic (1024 - 49151). If no value is set or is set to 0, the default port (4789) is used.")
	f.StringSliceVar(&o.pools, "default-addr-pool", nil, "Default address pool in CIDR format")
	f.Uint32Var(&o.poolMask, "default-addr-pool-mask-length", 0, "Default address pool subnet mask length (default 24)")
	f.DurationVar(&o.heartbeat, "dispatcher-heartbeat", 0, "Dispatcher heartbeat period (ns|us|ms|s|m|h) (default 1s)")
	f.Uint32Var(&o.gossipPort, "gossip-port", 0, "Port number to use for membership gossip (default 7946)")
	noSystemdFlag(c, &o.noSystemd)
	f.Int64Var(&o.historyLimit, "task-history-limit", 0, "Task history retention limit (default 5)")
	complete.Choices(c, "availability", flag.Availabilities)
	return c
}

func addressFlags(c *cobra.Command, advertise, listen, dataPath *string) {
	f := c.Flags()
	f.StringVar(advertise, "advertise-addr", "", `Advertised address (format: "<ip|interface>[:port]")`)
	f.StringVar(listen, "listen-addr", "", `Listen address (format: "<ip|interface>[:port]") (default 0.0.0.0:2377)`)
	f.StringVar(dataPath, "data-path-addr", "", `Address or interface to use for data path traffic (format: "<ip|interface>")`)
}

func noSystemdFlag(c *cobra.Command, off *bool) {
	c.Flags().BoolVar(off, "no-systemd", false, "Do not make the daemon a service of systemd")
}

// request checks the options and returns the request to the daemon.
func (o initOptions) request() (*swarmv1.InitRequest, error) {
	if err := checkAddresses(o.advertise, o.listen, o.dataPath); err != nil {
		return nil, err
	}
	for _, pool := range o.pools {
		prefix, err := netip.ParsePrefix(pool)
		if err != nil {
			return nil, usage.Invalidf("default address pool %q is not a network: use CIDR format, such as 10.0.0.0/8", pool)
		}
		if o.poolMask != 0 && int(o.poolMask) < prefix.Bits() {
			return nil, usage.Invalidf("default address pool %s is smaller than one subnet of mask length %d: use a larger pool or mask length", pool, o.poolMask)
		}
	}
	switch {
	case o.dataPort != 0 && (o.dataPort < 1024 || o.dataPort > 49151):
		return nil, usage.Invalidf("data path port %d is out of range: use 1024 to 49151", o.dataPort)
	case o.gossipPort > 65535:
		return nil, usage.Invalidf("gossip port %d is out of range: use 1 to 65535", o.gossipPort)
	case o.poolMask > 29:
		return nil, usage.Invalidf("mask length %d leaves no room for containers: use at most 29", o.poolMask)
	case o.certExpiry != 0 && o.certExpiry < 30*time.Second:
		return nil, usage.Invalidf("certificate expiry %s is too short: use at least 30s", o.certExpiry)
	case o.heartbeat < 0:
		return nil, usage.Invalidf("heartbeat period %s is negative: use a positive duration", o.heartbeat)
	case o.historyLimit < 0 || o.historyLimit > 100:
		return nil, usage.Invalidf("task history limit %d is out of range: use 0 to 100", o.historyLimit)
	}
	spec := &swarmv1.ClusterSpec{}
	if o.historySet {
		spec.Orchestration = &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: o.historyLimit}
	}
	if o.heartbeat != 0 {
		spec.Dispatcher = &swarmv1.DispatcherConfig{HeartbeatPeriod: durationpb.New(o.heartbeat)}
	}
	if o.certExpiry != 0 {
		spec.CaConfig = &swarmv1.CAConfig{NodeCertExpiry: durationpb.New(o.certExpiry)}
	}
	if len(o.pools) > 0 || o.poolMask != 0 || o.dataPort != 0 || o.gossipPort != 0 {
		spec.Network = &swarmv1.NetworkDefaults{
			DefaultAddrPool: o.pools, SubnetSize: o.poolMask, DataPathPort: o.dataPort, GossipPort: o.gossipPort,
		}
	}
	return &swarmv1.InitRequest{
		AdvertiseAddr: o.advertise, ListenAddr: o.listen, DataPathAddr: o.dataPath,
		Availability: flag.ParseAvailability(o.availability.Value), Spec: spec,
		GossipPort: o.gossipPort,
	}, nil
}

func runInit(ctx context.Context, deps *command.Deps, o initOptions) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return becomeMember(ctx, deps, o.noSystemd, func(c command.Client) error {
		r, err := c.Daemon.Init(ctx, req)
		if err != nil {
			return err
		}
		term.Printf(deps.Out, "Swarm initialized: current node (%s) is now a manager.\n\n", r.NodeId)
		term.Printf(deps.Out, "To add a worker to this swarm, run the following command:\n\n    swarm join --token %s %s\n\n", r.WorkerToken, r.Addr)
		fmt.Fprintln(deps.Out, "To add a manager to this swarm, run 'swarm join-token manager' and follow the instructions.")
		fmt.Fprintln(deps.Out, tokenFileHint) // not term.Printf: our own text
		warnProfiles(ctx, deps, c)
		return nil
	})
}

// warnProfiles warns if this node runs containers without seccomp profiles. The node is a member in
// any case.
func warnProfiles(ctx context.Context, deps *command.Deps, c command.Client) {
	info, err := c.Daemon.Info(ctx, &swarmv1.InfoRequest{})
	if err != nil {
		return
	}
	if missing := term.WithoutProfiles(info.GetVersion()); missing != "" {
		deps.Warn([]string{missing})
	}
}

// tokenFileHint says how to hide a join token from other users of the host.
const tokenFileHint = "On a host with other users, put the token into a file and use --token-file: they can read command lines."

type joinOptions struct {
	token, tokenFile            string
	remotes                     []string
	advertise, listen, dataPath string
	availability                flag.Choice
	noSystemd, skipCheck        bool
}

// NewJoin returns the verb `swarm join`.
func NewJoin(deps *command.Deps) *cobra.Command {
	o := joinOptions{availability: flag.Choice{Value: "active", Choices: flag.Availabilities}}
	c := command.Verb(&cobra.Command{
		Use: "join [OPTIONS] HOST[:PORT] [HOST[:PORT]...]", Short: "Join a swarm as a node and/or manager", Args: usage.MinArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			o.remotes = args
			return runJoin(c.Context(), deps, o)
		},
	})
	addressFlags(c, &o.advertise, &o.listen, &o.dataPath)
	c.Flags().Var(&o.availability, "availability", `Availability of the node ("active", "pause", "drain")`)
	noSystemdFlag(c, &o.noSystemd)
	c.Flags().BoolVar(&o.skipCheck, "skip-network-check", false, "Join without trying the ports to and from the manager")
	c.Flags().StringVar(&o.token, "token", "", `Token for entry into the swarm ("-": read it from standard input)`)
	c.Flags().StringVar(&o.tokenFile, "token-file", "", `File with the token, which other users of this host cannot read, unlike a command line ("-": standard input)`)
	complete.Choices(c, "availability", flag.Availabilities)
	return c
}

// request checks the options and returns the request to the daemon.
func (o joinOptions) request(token string) (*swarmv1.JoinClusterRequest, error) {
	if err := checkAddresses(o.advertise, o.listen, o.dataPath); err != nil {
		return nil, err
	}
	remotes := make([]string, 0, len(o.remotes))
	for _, r := range o.remotes {
		addr, err := command.WithPort(r)
		if err != nil {
			return nil, usage.Invalidf("address %q of the manager is not valid: %s; use HOST[:PORT]", r, err)
		}
		remotes = append(remotes, addr)
	}
	return &swarmv1.JoinClusterRequest{
		Token: token, RemoteAddrs: remotes, AdvertiseAddr: o.advertise, ListenAddr: o.listen,
		DataPathAddr: o.dataPath, Availability: flag.ParseAvailability(o.availability.Value), SkipNetworkCheck: o.skipCheck,
	}, nil
}

func runJoin(ctx context.Context, deps *command.Deps, o joinOptions) error {
	token, err := readToken(deps, o.token, o.tokenFile)
	if err != nil {
		return err
	}
	req, err := o.request(token)
	if err != nil {
		return err
	}
	return becomeMember(ctx, deps, o.noSystemd, func(c command.Client) error {
		r, err := c.Daemon.Join(ctx, req)
		if err != nil {
			return err
		}
		term.Printf(deps.Out, "This node joined a swarm as a %s.\n", term.EnumWord(r.Role))
		warnProfiles(ctx, deps, c)
		return nil
	})
}

// checkAddresses refuses a value that is neither an address nor the name of an interface.
func checkAddresses(advertise, listen, dataPath string) error {
	for _, f := range []struct {
		flag, value string
		port        bool
	}{{"advertise-addr", advertise, true}, {"listen-addr", listen, true}, {"data-path-addr", dataPath, false}} {
		if f.value == "" {
			continue
		}
		if _, err := netip.ParseAddr(f.value); err == nil {
			continue
		}
		host := f.value
		if h, port, err := net.SplitHostPort(f.value); err == nil {
			if !f.port {
				return usage.Invalidf("--%s %s has a port: give an address or an interface alone", f.flag, f.value)
			}
			if _, err := command.WithPort(net.JoinHostPort("x", port)); err != nil {
				return usage.Invalidf("--%s %s is not valid: %s", f.flag, f.value, err)
			}
			host = h
		}
		if _, err := netip.ParseAddr(host); err == nil || interfaceName(host) {
			continue
		}
		return usage.Invalidf("--%s %s is neither an IP address nor an interface: use <ip|interface>[:port]", f.flag, f.value)
	}
	return nil
}

// interfaceName reports whether s may be the name of an interface under Linux: at most 15 bytes
// without blanks, slashes and colons. A name of only digits and dots is refused, because the user
// has probably mistyped an address.
func interfaceName(s string) bool {
	return s != "" && len(s) <= 15 && !strings.ContainsAny(s, " \t/:") && strings.Trim(s, "0123456789.") != ""
}

// NewLeave returns the verb `swarm leave`.
func NewLeave(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "leave [OPTIONS]", Short: "Leave the swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runLeave(c.Context(), deps, force) },
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Force this node to leave the swarm, ignoring warnings")
	return c
}

func runLeave(ctx context.Context, deps *command.Deps, force bool) error {
	return deps.Connect(ctx, func(c command.Client) error {
		stopExplaining := deps.ExplainDelay(ctx, func(context.Context) string {
			return "waiting until the tasks of this node have stopped: each has its grace period"
		})
		_, err := c.Daemon.Leave(ctx, &swarmv1.LeaveRequest{Force: force})
		stopExplaining()
		if err != nil {
			return err
		}
		fmt.Fprintln(deps.Out, "Node left the swarm.")
		return nil
	})
}

type joinTokenOptions struct {
	role          string
	quiet, rotate bool
}

// NewJoinToken returns the verb `swarm join-token`.
func NewJoinToken(deps *command.Deps) *cobra.Command {
	var o joinTokenOptions
	c := command.Verb(&cobra.Command{
		Use: "join-token [OPTIONS] (worker|manager)", Short: "Manage join tokens", Args: usage.ExactArgs(1),
		ValidArgsFunction: complete.Fixed("worker", "manager"),
		RunE: func(c *cobra.Command, args []string) error {
			o.role = args[0]
			return runJoinToken(c.Context(), deps, o)
		},
	})
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display token")
	c.Flags().BoolVar(&o.rotate, "rotate", false, "Rotate join token")
	return c
}

func runJoinToken(ctx context.Context, deps *command.Deps, o joinTokenOptions) error {
	if o.role != "worker" && o.role != "manager" {
		return usage.Invalidf("unknown role %q: use worker or manager", o.role)
	}
	return deps.Connect(ctx, func(c command.Client) error {
		cluster, err := c.GetCluster(ctx, &swarmv1.GetRequest{})
		if err == nil && o.rotate {
			cluster, err = c.UpdateCluster(ctx, &swarmv1.UpdateClusterRequest{
				Version: cluster.GetMeta().GetVersion(), Spec: cluster.GetSpec(),
				RotateWorkerToken: o.role == "worker", RotateManagerToken: o.role == "manager",
			})
		}
		if err != nil {
			return err
		}
		token := cluster.GetRootCa().GetJoinTokens().GetWorker()
		if o.role == "manager" {
			token = cluster.GetRootCa().GetJoinTokens().GetManager()
		}
		if o.quiet {
			term.Printf(deps.Out, "%s\n", token)
			return nil
		}
		addr, err := managerAddr(ctx, c)
		if err != nil {
			return err
		}
		if o.rotate {
			term.Printf(deps.Out, "Successfully rotated %s join token.\n\n", o.role)
		}
		term.Printf(deps.Out, "To add a %s to this swarm, run the following command:\n\n    swarm join --token %s %s\n\n", o.role, token, addr)
		fmt.Fprintln(deps.Out, tokenFileHint) // not term.Printf: our own text
		return nil
	})
}

// managerAddr returns the address of a manager for new nodes: the leader's, or that of a reachable
// manager if no leader is known, or that of any manager if none is reachable.
func managerAddr(ctx context.Context, c command.Client) (string, error) {
	nodes, err := c.ListNodes(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return "", err
	}
	addr := ""
	for _, n := range nodes.Nodes {
		m := n.GetManagerStatus()
		if m.GetLeader() && m.GetAddr() != "" {
			return m.GetAddr(), nil
		}
		if m.GetAddr() != "" && (addr == "" || m.GetReachability() == swarmv1.ManagerStatus_REACHABLE) {
			addr = m.GetAddr()
		}
	}
	return addr, nil
}
