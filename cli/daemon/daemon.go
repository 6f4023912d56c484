package daemon

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/usage"
	"swarm/internal/keychain"
)

// Options are the flags of `swarm daemon`.
type Options struct {
	StateDir, RunDir string
	// Hostname is the name of the node. If it is empty, it is that of the machine.
	Hostname string
	// Labels are the engine labels of the node, or nil.
	Labels map[string]string
	// MachineID identifies the machine. If it is empty, it comes from /etc/machine-id, or from a
	// file in the state folder.
	MachineID string
	// CgroupDriver is CgroupFS or CgroupSystemd. If it is empty, the driver that fits the host is
	// used.
	CgroupDriver string
	// CgroupParent is the parent of the containers' cgroups: a path, or a slice of systemd. If it
	// is empty, it is the default of the driver.
	CgroupParent string
	// ContainerdAddress is the socket of a containerd of the host. If it is empty, the embedded
	// containerd is used.
	ContainerdAddress string
	// InsecureRegistries (HOST[:PORT] or ADDRESS/BITS) may have an invalid certificate, or no TLS.
	InsecureRegistries []string
	// RegistryCertsDirs are the folders of registries' certificates and mirrors.
	RegistryCertsDirs []string
	// SocketGroup is the group that may use the local socket, in addition to root.
	SocketGroup string
	// PeerBandwidth bounds the bytes of images that are sent to other nodes per second. 0 is no
	// bound.
	PeerBandwidth int64
	// The clean-up of the disk begins when CleanStart percent are used, and ends at CleanStop.
	// ImageAge is how long an unused image stays. If ImageAge is 0, the image stays until the disk
	// fills.
	CleanStart, CleanStop int
	ImageAge              time.Duration
	// LogsAge and LogsSize (in bytes) bound the logs of removed tasks that a node keeps.
	LogsAge  time.Duration
	LogsSize int64
	// RaftTimeout is how long a manager waits for a message from the leader before it starts an
	// election.
	RaftTimeout time.Duration
	// MetricsAddr is the address at which Prometheus reads this node's metrics. If it is empty,
	// there are no metrics. MetricsAsked is set if the user named the address.
	MetricsAddr  string
	MetricsAsked bool
	// LogLevel is debug, info, warn or error. LogFormat is text or json.
	LogLevel, LogFormat string
	// LogFile is the file of the log. A file of 10 MB is renamed, and a new one begins. If LogFile
	// is empty, the log goes to standard error.
	LogFile string
	// Simulated is set if the node only pretends to run containers, for tests of scale.
	Simulated bool
}

// CgroupFS and CgroupSystemd are the cgroup drivers. With CgroupFS runc makes the cgroups of
// containers, and with CgroupSystemd systemd does.
const (
	CgroupFS      = "cgroupfs"
	CgroupSystemd = "systemd"
)

var (
	cgroupDrivers = []string{CgroupFS, CgroupSystemd}

	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// New returns the verb `swarm daemon`.
func New(run func(context.Context, Options) error) *cobra.Command {
	o := Options{}
	labels := flag.List{Kind: "list", Check: flag.CheckKeyValue}
	driver := flag.Choice{Choices: cgroupDrivers}
	level, format := flag.Choice{Value: "info", Choices: logLevels}, flag.Choice{Value: "text", Choices: logFormats}
	var bandwidth flag.Rate
	logs := flag.Memory{Bytes: 1 << 30}
	c := command.Verb(&cobra.Command{
		Use: "daemon [OPTIONS]", Short: "Run this host's part of the swarm", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o.CgroupDriver = driver.Value
			o.PeerBandwidth, o.LogsSize = bandwidth.PerSecond, logs.Bytes
			o.LogLevel, o.LogFormat = level.Value, format.Value
			o.MetricsAsked = c.Flags().Changed("metrics-addr")
			var err error
			if o.Labels, err = engineLabels(labels.Values); err != nil {
				return err
			}
			if err := o.validate(); err != nil {
				return err
			}
			return run(c.Context(), o)
		},
	})
	f := c.Flags()
	f.StringVar(&o.StateDir, "state-dir", command.DefaultStateDir, "Folder of the files that must survive a reboot")
	f.StringVar(&o.RunDir, "run-dir", command.DefaultRunDir, "Folder of sockets and of files that a reboot may remove")
	f.StringVar(&o.Hostname, "hostname", "", "Name of this node (default: the machine's)")
	f.Var(&labels, "label", `Engine label of this node ("key=value"); constraints see it as engine.labels.KEY; a change counts after "swarm node accept"`)
	f.StringVar(&o.MachineID, "machine-id", "", "Identity of this machine (default: that of /etc/machine-id, else one kept in the state folder)")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "", "Parent of the containers' cgroups: a path, or a slice of systemd (default /swarm, or swarm.slice)")
	f.Var(&driver, "cgroup-driver", `Program that makes the containers' cgroups ("cgroupfs", "systemd"; default systemd if it is the init and the host has cgroup v2)`)
	f.StringVar(&o.ContainerdAddress, "containerd-address", "", "Socket of a containerd to use instead of the embedded one")
	f.StringArrayVar(&o.InsecureRegistries, "insecure-registry", nil, "Registry (HOST[:PORT], or a network as ADDRESS/BITS) to use without a valid certificate, or without TLS")
	f.StringArrayVar(&o.RegistryCertsDirs, "registry-certs-dir", DefaultRegistryCertsDirs(), "Folder of registries' certificates and mirrors, one folder each (HOST/hosts.toml as in containerd, HOST/ca.crt as in Docker); repeat for several")
	f.StringVar(&o.SocketGroup, "group", "", "Group whose members may use the local socket, in addition to root")
	f.Var(&bandwidth, "peer-bandwidth", "Largest rate at which this node sends images to other nodes, such as 50MB/s (default: no limit)")
	f.IntVar(&o.CleanStart, "disk-clean-start", 85, "Percentage of the disk in use at which the node begins to remove unused images and old logs")
	f.IntVar(&o.CleanStop, "disk-clean-stop", 75, "Percentage of the disk in use at which the node stops removing them")
	f.DurationVar(&o.ImageAge, "image-max-age", 720*time.Hour, "How long an unused image stays (0: until the disk fills)")
	f.DurationVar(&o.LogsAge, "removed-logs-max-age", 7*24*time.Hour, "How long the log of a removed task stays")
	f.Var(&logs, "removed-logs-max-size", "Largest size of all logs of removed tasks on the disk; the oldest are removed first")
	f.DurationVar(&o.RaftTimeout, "raft-timeout", 500*time.Millisecond, "How long a manager waits for a message from the leader before it starts an election; use the same value on all managers, and a higher one on slow hosts and networks")
	f.StringVar(&o.MetricsAddr, "metrics-addr", DefaultMetricsAddr, `Address and port at which Prometheus reads metrics, without a password ("off": no metrics)`)
	f.Var(&level, "log-level", `Lowest level to log ("debug", "info", "warn", "error")`)
	f.Var(&format, "log-format", `Format of the log ("text", "json")`)
	f.StringVar(&o.LogFile, "log-file", "", "File to log to instead of standard error; renamed to FILE.1 at 10 MB")
	f.BoolVar(&o.Simulated, "simulated", false, "Only pretend to run containers: for tests of scale")
	if err := f.MarkHidden("simulated"); err != nil {
		panic("cli: " + err.Error())
	}
	complete.Choices(c, "log-level", logLevels)
	complete.Choices(c, "log-format", logFormats)
	complete.Choices(c, "cgroup-driver", cgroupDrivers)
	return c
}

// minRaftTimeout is the smallest RaftTimeout. A leader on a busy host may send nothing for that
// long.
const minRaftTimeout = 100 * time.Millisecond

// DefaultMetricsAddr is the address at which Prometheus reads a node's metrics, on the host itself.
const DefaultMetricsAddr = "127.0.0.1:9377"

// checkMetricsAddr accepts ADDRESS:PORT, "off", and "". To listen on all addresses, the user must
// name 0.0.0.0 or ::.
func (o *Options) checkMetricsAddr() error {
	if o.MetricsAddr == "off" {
		o.MetricsAddr = ""
	}
	if o.MetricsAddr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(o.MetricsAddr)
	if err == nil && host == "" {
		return usage.Invalidf("--metrics-addr %s would show this node's metrics to everybody: use 127.0.0.1:%s, or 0.0.0.0:%s if that is meant", o.MetricsAddr, port, port)
	}
	if _, addrErr := netip.ParseAddr(host); err != nil || addrErr != nil && host != "localhost" {
		return usage.Invalidf("--metrics-addr %q is not ADDRESS:PORT, as in %s", o.MetricsAddr, DefaultMetricsAddr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return usage.Invalidf("--metrics-addr %s: give a port from 1 to 65535", o.MetricsAddr)
	}
	return nil
}

// DefaultRegistryCertsDirs returns the folders in which registries' certificates and mirrors are
// looked for: that of swarm, then those of containerd and of Docker.
func DefaultRegistryCertsDirs() []string {
	return []string{"/etc/swarm/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"}
}

// maxSocketPath is the maximum length of the run folder's path, in bytes: the maximum length of a
// socket's path less the longest name of a socket in the folder.
const maxSocketPath = 107 - len("/containerd.sock.ttrpc")

func (o *Options) validate() error {
	for _, dir := range []struct {
		flag string
		path *string
	}{{"state-dir", &o.StateDir}, {"run-dir", &o.RunDir}} {
		if !filepath.IsAbs(*dir.path) {
			return usage.Invalidf("--%s %q is not an absolute path", dir.flag, *dir.path)
		}
		*dir.path = filepath.Clean(*dir.path)
	}
	slice := strings.HasSuffix(o.CgroupParent, ".slice") && !strings.Contains(o.CgroupParent, "/")
	switch {
	case o.CgroupParent != "" && !slice && !filepath.IsAbs(o.CgroupParent):
		return usage.Invalidf("--cgroup-parent %q is neither an absolute path nor a slice: use /NAME or NAME.slice", o.CgroupParent)
	case o.CgroupDriver == CgroupSystemd && o.CgroupParent != "" && !slice:
		return usage.Invalidf("--cgroup-parent %q is no slice, and --cgroup-driver systemd needs one: use NAME.slice", o.CgroupParent)
	case o.CgroupDriver == CgroupFS && slice:
		return usage.Invalidf("--cgroup-parent %q is a slice, and --cgroup-driver cgroupfs needs a path: use /NAME", o.CgroupParent)
	case o.LogFile != "" && !filepath.IsAbs(o.LogFile):
		return usage.Invalidf("--log-file %q is not an absolute path", o.LogFile)
	case len(o.RunDir) > maxSocketPath:
		return usage.Invalidf("--run-dir %s is too long for sockets in it: use at most %d characters", o.RunDir, maxSocketPath)
	case o.CleanStop < 1 || o.CleanStart > 100 || o.CleanStop > o.CleanStart:
		return usage.Invalidf("--disk-clean-start %d and --disk-clean-stop %d: give percentages from 1 to 100, the first not less than the second", o.CleanStart, o.CleanStop)
	case o.RaftTimeout < minRaftTimeout:
		return usage.Invalidf("--raft-timeout %s is less than %s: leaders would be lost that are there", o.RaftTimeout, minRaftTimeout)
	case o.ImageAge < 0:
		return usage.Invalidf("--image-max-age %s is negative: give a duration such as 720h, or 0", o.ImageAge)
	case o.LogsAge <= 0:
		return usage.Invalidf("--removed-logs-max-age %s is not positive: give a duration such as 168h", o.LogsAge)
	case o.LogsSize <= 0:
		return usage.Invalidf("--removed-logs-max-size: give a number of bytes such as 1g")
	case strings.ContainsAny(o.MachineID, " \t\n/"):
		return usage.Invalidf("--machine-id %q has blanks or slashes: use letters and digits", o.MachineID)
	}
	if err := o.checkMetricsAddr(); err != nil {
		return err
	}
	for _, r := range o.InsecureRegistries {
		if err := checkInsecureRegistry(r); err != nil {
			return err
		}
	}
	for _, dir := range o.RegistryCertsDirs {
		if !filepath.IsAbs(dir) {
			return usage.Invalidf("--registry-certs-dir %q is not an absolute path", dir)
		}
	}
	return nil
}

// checkInsecureRegistry accepts HOST[:PORT] and networks.
func checkInsecureRegistry(r string) error {
	if strings.Contains(r, "://") {
		return usage.Invalidf("--insecure-registry %s: leave the scheme away, as in %s", r, keychain.Host(r))
	}
	if _, err := netip.ParsePrefix(r); err != nil && (r == "" || strings.ContainsAny(r, "/ \t")) {
		return usage.Invalidf("--insecure-registry %q is neither HOST[:PORT] nor a network as 10.0.0.0/8", r)
	}
	return nil
}

// RuntimeOptions are the flags of `swarm runtime`, which the daemon starts.
type RuntimeOptions struct {
	// Root is the persistent folder, State the transient one, Address the socket to serve on, and
	// BinDir the folder of the shim.
	Root, State, Address, BinDir string
	LogLevel                     string
}

// NewRuntime returns the verb `swarm runtime`.
func NewRuntime(run func(context.Context, RuntimeOptions) error) *cobra.Command {
	var o RuntimeOptions
	level := flag.Choice{Value: "warn", Choices: []string{"trace", "debug", "info", "warn", "error", "fatal"}}
	c := command.Verb(&cobra.Command{
		Use: "runtime [OPTIONS]", Short: "Run the companion that keeps containers while the daemon restarts", Args: usage.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			o.LogLevel = level.Value
			required := []string{o.Root, o.State, o.Address, o.BinDir}
			if slices.Contains(required, "") {
				return usage.Errorf(c, "--root, --state, --address and --bin-dir are needed: the daemon gives them")
			}
			return run(c.Context(), o)
		},
	})
	f := c.Flags()
	f.StringVar(&o.Root, "root", "", "Persistent folder")
	f.StringVar(&o.State, "state", "", "Transient folder")
	f.StringVar(&o.Address, "address", "", "Socket to serve on")
	f.StringVar(&o.BinDir, "bin-dir", "", "Folder of the shim")
	f.Var(&level, "log-level", "Lowest level to log: trace, debug, info, warn, error or fatal")
	return c
}
