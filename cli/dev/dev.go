package dev

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
)

// Maker makes playgrounds: clusters of hosts on this machine. The empty name stands for the default
// playground.
type Maker interface {
	// Up makes a playground. It calls progress with one line for each step.
	Up(ctx context.Context, o Options, progress func(string)) error
	Down(ctx context.Context, playground string) error
	// Playgrounds returns the names of the playgrounds that are up.
	Playgrounds() ([]string, error)
	Hosts(playground string) ([]Host, error)
	// Shell replaces this process by a command in a host. The default command is the user's shell.
	// Shell returns only if it fails.
	Shell(playground, host string, argv []string) error
	// Kill ends the daemon of a host at once. Stop asks it to end. PowerOff ends everything on the
	// host. Start brings the host back.
	Kill(ctx context.Context, playground, host string) error
	Stop(ctx context.Context, playground, host string) error
	PowerOff(ctx context.Context, playground, host string) error
	Start(ctx context.Context, playground, host string) error
	Cut(playground string, cut Cut) error
	// Heal undoes the cuts that touch the hosts, or all cuts if hosts is empty.
	Heal(playground string, hosts []string) error
}

// Options are the flags of `swarm dev up`. Zero values stand for the defaults.
type Options struct {
	Name            string
	Nodes, Managers int
	Root            string
	Subnet          netip.Prefix
	MTU             int
	// Disk is the size in bytes of the file system of each host's state. If Disk is 0, the state is
	// on the file system of this machine.
	Disk int64
	// DaemonArgs, InitArgs and JoinArgs are added to the commands daemon, init and join.
	DaemonArgs, InitArgs, JoinArgs []string
	NoCluster, KeepFailed          bool
	StartTimeout                   time.Duration
}

// Host is one host of a playground.
type Host struct {
	Name, Role, Address, State       string
	PID                              int
	Unplugged                        bool
	Socket, StateDir, Log, Namespace string
}

// Cut describes a cut: the cable of one host, or the way between two, or one port.
type Cut struct {
	Hosts    []string
	Port     uint16
	Protocol string
	OneWay   bool
}

// New returns the group of commands `swarm dev`.
func New(deps *command.Deps, d Maker) *cobra.Command {
	c := command.Group(&cobra.Command{Use: "dev", Short: "Try a cluster of several hosts on this machine"})
	playground := c.PersistentFlags().String("name", "", `Name of the playground (default "dev")`)
	c.AddCommand(newUp(deps, d, playground), newDown(d, playground), newLs(deps, d, playground), newShell(d, playground))
	c.AddCommand(newKill(deps, d, playground), newHostVerb(deps, d, playground, "start", "Bring hosts back", d.Start))
	c.AddCommand(newHostVerb(deps, d, playground, "stop", "Stop the daemons of hosts; their containers go on", d.Stop))
	c.AddCommand(newCut(d, playground), newHeal(d, playground))
	return c
}

func newUp(deps *command.Deps, d Maker, playground *string) *cobra.Command {
	var o Options
	var subnet string
	var disk flag.Memory
	var daemonArgs, initArgs, joinArgs flag.Words
	c := command.Verb(&cobra.Command{
		Use: "up [OPTIONS]", Short: "Make hosts and a cluster of them", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Disk = disk.Bytes
			o.Name, o.DaemonArgs, o.InitArgs, o.JoinArgs = *playground, daemonArgs.Values, initArgs.Values, joinArgs.Values
			if subnet != "" {
				prefix, err := netip.ParsePrefix(subnet)
				if err != nil {
					return usage.Invalidf("--subnet %q is not a network: use CIDR format, such as 10.213.0.0/24", subnet)
				}
				o.Subnet = prefix
			}
			if o.Nodes < 0 || o.Managers < 0 {
				return usage.Invalidf("--nodes and --managers cannot be negative")
			}
			return d.Up(c.Context(), o, func(line string) { term.Printf(deps.Err, "%s\n", line) })
		},
	})
	f := c.Flags()
	f.IntVar(&o.Nodes, "nodes", 0, "Number of hosts (default 5)")
	f.IntVar(&o.Managers, "managers", 0, "How many of them are managers (default 3, or all when there are fewer)")
	f.StringVar(&o.Root, "root", "", "Folder of the hosts' state, absent or empty (default /var/lib/swarm-dev/NAME)")
	f.StringVar(&subnet, "subnet", "", "Network of the hosts in CIDR format (default: a free one of 10.213.0.0/16)")
	f.IntVar(&o.MTU, "mtu", 0, "MTU of the hosts' interfaces (default 1500)")
	f.Var(&disk, "disk", "Size of a file system of its own for each host's state (default: the machine's)")
	f.Var(&daemonArgs, "daemon-args", "Flags to add to swarm daemon")
	f.Var(&initArgs, "init-args", "Flags to add to swarm init")
	f.Var(&joinArgs, "join-args", "Flags to add to swarm join")
	f.BoolVar(&o.NoCluster, "no-cluster", false, "Leave the daemons running without init and join")
	f.BoolVar(&o.KeepFailed, "keep-failed", false, "Leave what could not be brought up as it is, to be looked at")
	f.DurationVar(&o.StartTimeout, "start-timeout", 0, "How long each daemon, init and join may take (default 30s)")
	return c
}

func newDown(d Maker, playground *string) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "down", Short: "Remove the hosts and everything on them", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return d.Down(c.Context(), *playground) },
	})
}

var listing = term.Table{
	Columns: []term.Column{
		{"Name", "NAME"},
		{"Role", "ROLE"},
		{"Address", "ADDRESS"},
		{"State", "STATE"},
		{"PID", "PID"},
		{"Host", "HOST"},
	},
	More: []term.Column{
		{"Playground", "PLAYGROUND"},
		{"Socket", "SOCKET"},
		{"StateDir", "STATE DIR"},
		{"Log", "LOG"},
		{"Namespace", "NAMESPACE"},
		{"Unplugged", "UNPLUGGED"},
	},
	Id: "Name",
}

func newLs(deps *command.Deps, d Maker, playground *string) *cobra.Command {
	var f term.Format
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List the hosts", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error { return runLs(deps, d, *playground, f) },
	})
	c.Flags().StringVar(&f.Template, "format", "", term.FormatHelp)
	c.Flags().BoolVarP(&f.Quiet, "quiet", "q", false, "Only display names")
	return c
}

// runLs lists the hosts of one playground, or of all playgrounds if none is named.
func runLs(deps *command.Deps, d Maker, playground string, f term.Format) error {
	names := []string{playground}
	if playground == "" {
		var err error
		if names, err = d.Playgrounds(); err != nil {
			return err
		}
	}
	var rows []term.Row
	for _, name := range names {
		hosts, err := d.Hosts(name)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			state := h.State
			if h.Unplugged {
				state += " (cut off)"
			}
			pid := ""
			if h.PID != 0 {
				pid = fmt.Sprint(h.PID)
			}
			rows = append(rows, term.Row{
				"Playground": name, "Name": h.Name, "Role": h.Role, "Address": h.Address, "State": state, "PID": pid,
				"Host": "unix://" + h.Socket, "Socket": h.Socket, "StateDir": h.StateDir, "Log": h.Log, "Namespace": h.Namespace,
				"Unplugged": h.Unplugged,
			})
		}
	}
	l := listing
	if len(names) > 1 { // Hosts of different playgrounds have the same names.
		l.Columns = append([]term.Column{{"Playground", "PLAYGROUND"}}, l.Columns...)
	}
	return deps.PrintTable(l, f, rows)
}

func newShell(d Maker, playground *string) *cobra.Command {
	c := command.Verb(&cobra.Command{
		Use: "shell HOST [COMMAND] [ARG...]", Short: "Run a shell or a command inside of a host", Args: usage.MinArgs(1),
		ValidArgsFunction: completeHosts(d, playground),
		RunE:              func(_ *cobra.Command, args []string) error { return d.Shell(*playground, args[0], args[1:]) },
	})
	c.Flags().SetInterspersed(false)
	return c
}

func newKill(deps *command.Deps, d Maker, playground *string) *cobra.Command {
	var daemonOnly bool
	c := command.Verb(&cobra.Command{
		Use: "kill [OPTIONS] HOST [HOST...]", Short: "Pull the plug of hosts: everything on them ends at once", Args: usage.MinArgs(1),
		ValidArgsFunction: completeHosts(d, playground),
		RunE: func(c *cobra.Command, args []string) error {
			return deps.OnEach(args, func(host string) error {
				kill := d.PowerOff
				if daemonOnly {
					kill = d.Kill
				}
				return report(deps, host, kill(c.Context(), *playground, host))
			})
		},
	})
	c.Flags().BoolVar(&daemonOnly, "daemon", false, "Kill the daemon only; its containers go on")
	return c
}

func newHostVerb(deps *command.Deps, d Maker, playground *string, name, short string, do func(ctx context.Context, playground, host string) error) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: name + " HOST [HOST...]", Short: short, Args: usage.MinArgs(1), ValidArgsFunction: completeHosts(d, playground),
		RunE: func(c *cobra.Command, args []string) error {
			return deps.OnEach(args, func(host string) error { return report(deps, host, do(c.Context(), *playground, host)) })
		},
	})
}

// report prints the name of a host if err is nil, and returns err.
func report(deps *command.Deps, host string, err error) error {
	if err == nil {
		term.Printf(deps.Out, "%s\n", host)
	}
	return err
}

func newCut(d Maker, playground *string) *cobra.Command {
	var cut Cut
	protocol := flag.Choice{Choices: []string{"tcp", "udp"}}
	c := command.Verb(&cobra.Command{
		Use: "cut [OPTIONS] HOST [HOST]", Short: "Pull a host's cable, or part two hosts, or block a port",
		Args: func(c *cobra.Command, args []string) error {
			if err := usage.MinArgs(1)(c, args); err != nil {
				return err
			}
			return usage.MaxArgs(2)(c, args)
		},
		ValidArgsFunction: completeHosts(d, playground),
		RunE: func(_ *cobra.Command, args []string) error {
			cut.Hosts, cut.Protocol = args, protocol.Value
			if cut.Protocol != "" && cut.Port == 0 {
				return usage.Invalidf("--protocol needs a port: add --port")
			}
			return d.Cut(*playground, cut)
		},
	})
	c.Flags().Uint16Var(&cut.Port, "port", 0, "Only block this destination port")
	c.Flags().Var(&protocol, "protocol", `Only block the port for this protocol ("tcp", "udp")`)
	c.Flags().BoolVar(&cut.OneWay, "one-way", false, "Only block what the first host sends")
	return c
}

func newHeal(d Maker, playground *string) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "heal [HOST...]", Short: "Undo all cuts, or those of the hosts named", ValidArgsFunction: completeHosts(d, playground),
		RunE: func(_ *cobra.Command, args []string) error { return d.Heal(*playground, args) },
	})
}

func completeHosts(d Maker, playground *string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		hosts, err := d.Hosts(*playground)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, h := range hosts {
			names = append(names, h.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
