package service

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/complete"
	"swarm/cli/flag"
	swarmv1 "swarm/proto/swarm/v1"
)

var (
	restartConditions = []string{"none", "on-failure", "any"}
	updateOrders      = []string{"start-first", "stop-first"}
	updateActions     = []string{"pause", "continue", "rollback"}
	rollbackActions   = []string{"pause", "continue"}
	endpointModes     = []string{"vip", "dnsrr"}
)

// flags are the flags that `service create` and `service update` share, without those that take
// several values (see lists). A flag that the user did not give changes nothing.
type flags struct {
	set *pflag.FlagSet // knows which flags were given

	detach, quiet, noResolve, withAuth bool

	workdir, user, hostname, isolation, stopSignal, platform string
	entrypoint                                               flag.Words
	tty, stdin, init, readOnly, privileged, singleWriter     bool
	stopGrace                                                time.Duration
	oomScoreAdj                                              int64
	shmSize                                                  flag.Memory
	securityOpts, logOpts                                    flag.List
	priority                                                 int64

	limitCPU, reserveCPU       flag.CPUs
	limitMemory, reserveMemory flag.Memory
	memorySwap                 flag.Memory
	memorySwappiness           int64
	limitPids                  int64

	replicas, maxConcurrent, maxPerNode uint64
	endpointMode                        flag.Choice

	restartCondition            flag.Choice
	restartDelay, restartWindow time.Duration
	restartAttempts             uint64

	update, rollback policyFlags

	healthCmd, healthHTTP, healthTCP, healthGRPC string
	healthInterval, healthTimeout                time.Duration
	healthStart, healthStartInterval             time.Duration
	healthRetries                                uint64
	noHealth                                     bool

	logDriver string
}

// policyFlags are the flags of an update or of a rollback.
type policyFlags struct {
	parallelism    uint64
	delay, monitor time.Duration
	action, order  flag.Choice
	failureRatio   float64
}

func newFlags() *flags {
	return &flags{
		endpointMode: flag.Choice{Choices: endpointModes}, restartCondition: flag.Choice{Choices: restartConditions},
		memorySwap:   flag.Memory{Negative: true},
		logOpts:      flag.List{Kind: "list", Check: flag.CheckKeyValue},
		securityOpts: flag.List{Kind: "list", Check: flag.CheckSecurityOpt},
		update:       policyFlags{action: flag.Choice{Choices: updateActions}, order: flag.Choice{Choices: updateOrders}},
		rollback:     policyFlags{action: flag.Choice{Choices: rollbackActions}, order: flag.Choice{Choices: updateOrders}},
	}
}

// given reports whether the user gave one of the flags.
func (o *flags) given(names ...string) bool {
	for _, name := range names {
		if o.set.Changed(name) {
			return true
		}
	}
	return false
}

// register adds the flags to c. The help names the defaults for create only, because update keeps
// the values that the service has.
func (o *flags) register(c *cobra.Command, create bool) {
	o.set = c.Flags()
	o.set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "pids-limit" { // as `docker run` calls it
			name = "limit-pids"
		}
		return pflag.NormalizedName(name)
	})
	defaults := func(s string) string {
		if create {
			return " (default " + s + ")"
		}
		return ""
	}
	o.registerContainer(defaults)
	o.registerResources(defaults)
	o.registerHealth()
	o.registerPolicies(defaults)
	complete.Choices(c, "endpoint-mode", endpointModes)
	complete.Choices(c, "restart-condition", restartConditions)
	complete.Choices(c, "update-failure-action", updateActions)
	complete.Choices(c, "rollback-failure-action", rollbackActions)
	complete.Choices(c, "update-order", updateOrders)
	complete.Choices(c, "log-driver", flag.LogDrivers)
	complete.Choices(c, "rollback-order", updateOrders)
}

func (o *flags) registerContainer(defaults func(string) string) {
	f := o.set
	f.BoolVarP(&o.detach, "detach", "d", false, "Exit immediately instead of waiting for the service to converge")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress output")
	f.BoolVar(&o.noResolve, "no-resolve-image", false, "Do not query the registry to resolve image digest and supported platforms")
	f.BoolVar(&o.withAuth, "with-registry-auth", false, "Send registry authentication details to swarm agents")
	f.StringVarP(&o.workdir, "workdir", "w", "", "Working directory inside the container")
	f.StringVarP(&o.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVar(&o.hostname, "hostname", "", "Container hostname")
	f.StringVar(&o.isolation, "isolation", "", "Service container isolation mode")
	f.Var(&o.entrypoint, "entrypoint", "Overwrite the default ENTRYPOINT of the image")
	f.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.BoolVar(&o.stdin, "open-stdin", false, "Keep STDIN open even if not attached")
	f.BoolVar(&o.init, "init", false, "Use an init inside each service container to forward signals and reap processes")
	f.BoolVar(&o.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
	f.BoolVar(&o.privileged, "privileged", false, "Give extended privileges to the containers")
	f.Var(&o.securityOpts, "security-opt", "Security options (no-new-privileges, seccomp=unconfined|FILE, apparmor=unconfined|PROFILE, label=disable|user:U|role:R|type:T|level:L)")
	f.StringVar(&o.stopSignal, "stop-signal", "", "Signal to stop the container")
	f.DurationVar(&o.stopGrace, "stop-grace-period", 0, "Time to wait before force killing a container (ns|us|ms|s|m|h)"+defaults("10s"))
	f.Int64Var(&o.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	f.Var(&o.shmSize, "shm-size", "Size of /dev/shm"+defaults("64MiB"))
	f.StringVar(&o.platform, "platform", "", `Platform of the image (format: "os/arch[/variant]")`)
	f.StringVar(&o.logDriver, "log-driver", "", "Logging driver for service")
	f.Var(&o.logOpts, "log-opt", "Logging driver options")
	f.Int64Var(&o.priority, "priority", 0, "Placed before services of lower priority when resources are short (-1000 to 1000)")
	f.BoolVar(&o.singleWriter, "single-writer", false, "Never run two tasks of a slot at once, also when a node is out of contact")
}

func (o *flags) registerResources(defaults func(string) string) {
	f := o.set
	f.Var(&o.limitCPU, "limit-cpu", "Limit CPUs")
	f.Var(&o.limitMemory, "limit-memory", "Limit Memory")
	f.Int64Var(&o.limitPids, "limit-pids", 0, "Limit maximum number of processes and threads (0 = unlimited)"+defaults("4096"))
	f.Var(&o.reserveCPU, "reserve-cpu", "Reserve CPUs")
	f.Var(&o.reserveMemory, "reserve-memory", "Reserve Memory")
	f.Var(&o.memorySwap, "memory-swap", "Swap Bytes (-1 for unlimited)")
	f.Int64Var(&o.memorySwappiness, "memory-swappiness", 0, "Tune memory swappiness (0 to 100)")
	f.Uint64Var(&o.replicas, "replicas", 0, "Number of tasks")
	f.Uint64Var(&o.maxConcurrent, "max-concurrent", 0, "Number of job tasks to run concurrently"+defaults("equal to --replicas"))
	f.Uint64Var(&o.maxPerNode, "replicas-max-per-node", 0, "Maximum number of tasks per node (0 = unlimited)"+defaults("0"))
	f.Var(&o.endpointMode, "endpoint-mode", "Endpoint mode (vip or dnsrr)"+defaults(`"vip"`))
}

func (o *flags) registerHealth() {
	f := o.set
	f.StringVar(&o.healthCmd, "health-cmd", "", "Command to run to check health")
	f.StringVar(&o.healthHTTP, "health-http", "", "URL that must answer 2xx or 3xx to be healthy")
	f.StringVar(&o.healthTCP, "health-tcp", "", "Address (host:port) that must accept connections to be healthy")
	f.StringVar(&o.healthGRPC, "health-grpc", "", "Address (host:port[,service]) whose gRPC health service must say SERVING")
	f.DurationVar(&o.healthInterval, "health-interval", 0, "Time between running the check (ms|s|m|h)")
	f.Uint64Var(&o.healthRetries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
	f.DurationVar(&o.healthStartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h)")
	f.DurationVar(&o.healthStart, "health-start-period", 0, "Start period for the container to initialize before counting retries towards unstable (ms|s|m|h)")
	f.DurationVar(&o.healthTimeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h)")
	f.BoolVar(&o.noHealth, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
}

func (o *flags) registerPolicies(defaults func(string) string) {
	f := o.set
	f.Var(&o.restartCondition, "restart-condition", `Restart when condition is met ("none", "on-failure", "any")`+defaults(`"any"`))
	f.DurationVar(&o.restartDelay, "restart-delay", 0, "Delay between restart attempts; it doubles with every failure in a row, to 16 times itself or 5m at most (ns|us|ms|s|m|h)"+defaults("5s"))
	f.Uint64Var(&o.restartAttempts, "restart-max-attempts", 0, "Maximum number of restarts before giving up")
	f.DurationVar(&o.restartWindow, "restart-window", 0, "Window used to evaluate the restart policy (ns|us|ms|s|m|h)")

	p := &o.update
	f.DurationVar(&p.delay, "update-delay", 0, "Delay between updates (ns|us|ms|s|m|h)"+defaults("0s"))
	f.Var(&p.action, "update-failure-action", `Action on update failure ("pause", "continue", "rollback")`+defaults(`"pause"`))
	f.Float64Var(&p.failureRatio, "update-max-failure-ratio", 0, "Failure rate to tolerate during an update"+defaults("0"))
	f.DurationVar(&p.monitor, "update-monitor", 0, "Duration after each task update to monitor for failure (ns|us|ms|s|m|h)"+defaults("5s"))
	f.Var(&p.order, "update-order", `Update order ("start-first", "stop-first")`+defaults(`"stop-first"`))
	f.Uint64Var(&p.parallelism, "update-parallelism", 0, "Maximum number of tasks updated simultaneously (0 to update all at once)"+defaults("1"))

	p = &o.rollback
	f.DurationVar(&p.delay, "rollback-delay", 0, "Delay between task rollbacks (ns|us|ms|s|m|h)"+defaults("0s"))
	f.Var(&p.action, "rollback-failure-action", `Action on rollback failure ("pause", "continue")`+defaults(`"pause"`))
	f.Float64Var(&p.failureRatio, "rollback-max-failure-ratio", 0, "Failure rate to tolerate during a rollback"+defaults("0"))
	f.DurationVar(&p.monitor, "rollback-monitor", 0, "Duration after each task rollback to monitor for failure (ns|us|ms|s|m|h)"+defaults("5s"))
	f.Var(&p.order, "rollback-order", `Rollback order ("start-first", "stop-first")`+defaults(`"stop-first"`))
	f.Uint64Var(&p.parallelism, "rollback-parallelism", 0, "Maximum number of tasks rolled back simultaneously (0 to roll back all at once)"+defaults("1"))
}

// These texts end the help of flags that are parsed but can name nothing: no command creates
// secrets or configs, and no node offers generic resources.
const (
	noSecrets = " (not usable yet: secrets cannot be created)"
	noConfigs = " (not usable yet: configs cannot be created)"
	noGeneric = " (not usable yet: nodes offer none)"
)

// lists are the flags that take several values. Create sets the values, and update adds them to
// those that the service has.
type lists struct {
	capAdd, capDrop, constraints, containerLabels, labels, dns, dnsOptions, dnsSearch, env, envFiles flag.List
	groups, hosts, sysctls                                                                           flag.List
	generic                                                                                          flag.Parsed[*swarmv1.GenericResource]
	mounts                                                                                           flag.Parsed[*swarmv1.Mount]
	ports                                                                                            flag.Parsed[[]*swarmv1.PortConfig]
	networks                                                                                         flag.Parsed[*swarmv1.NetworkAttachmentConfig]
	secrets                                                                                          flag.Parsed[*swarmv1.SecretReference]
	configs                                                                                          flag.Parsed[*swarmv1.ConfigReference]
	prefs                                                                                            flag.Parsed[*swarmv1.PlacementPreference]
	ulimits                                                                                          flag.Parsed[*swarmv1.Ulimit]
	devices                                                                                          flag.Parsed[*swarmv1.DeviceMapping]
}

func newLists() *lists {
	plain := func(check func(string) error) flag.List { return flag.List{Kind: "list", Check: check} }
	return &lists{
		capAdd: plain(nil), capDrop: plain(nil), constraints: plain(flag.CheckConstraint), containerLabels: plain(flag.CheckLabel),
		labels: plain(flag.CheckLabel), dns: plain(flag.CheckIP), dnsOptions: plain(flag.CheckWord), dnsSearch: plain(flag.CheckWord), env: plain(flag.CheckEnv), envFiles: plain(nil),
		groups: plain(flag.CheckWord), hosts: plain(flag.CheckExtraHost), sysctls: plain(flag.CheckKeyValue),
		generic:  flag.Parsed[*swarmv1.GenericResource]{Kind: "list", Parse: flag.ParseGeneric},
		mounts:   flag.Parsed[*swarmv1.Mount]{Kind: "mount", Parse: flag.ParseMount},
		ports:    flag.Parsed[[]*swarmv1.PortConfig]{Kind: "port", Parse: flag.ParsePorts},
		networks: flag.Parsed[*swarmv1.NetworkAttachmentConfig]{Kind: "network", Parse: flag.ParseNetwork},
		secrets:  flag.Parsed[*swarmv1.SecretReference]{Kind: "secret", Parse: flag.ParseSecret},
		configs:  flag.Parsed[*swarmv1.ConfigReference]{Kind: "config", Parse: flag.ParseConfig},
		prefs:    flag.Parsed[*swarmv1.PlacementPreference]{Kind: "pref", Parse: flag.ParsePreference},
		ulimits:  flag.Parsed[*swarmv1.Ulimit]{Kind: "ulimit", Parse: flag.ParseUlimit},
		devices:  flag.Parsed[*swarmv1.DeviceMapping]{Kind: "list", Parse: flag.ParseDevice},
	}
}

// registerCreate adds the lists under their names in `service create`.
func (l *lists) registerCreate(f *pflag.FlagSet) {
	f.Var(&l.capAdd, "cap-add", "Add Linux capabilities")
	f.Var(&l.capDrop, "cap-drop", "Drop Linux capabilities")
	f.Var(&l.configs, "config", "Specify configurations to expose to the service"+noConfigs)
	f.Var(&l.constraints, "constraint", "Placement constraints")
	f.Var(&l.containerLabels, "container-label", "Container labels")
	f.Var(&l.devices, "device", "Add a host device to the containers (format: host[:container[:rwm]])")
	f.Var(&l.dns, "dns", "Set custom DNS servers")
	f.Var(&l.dnsOptions, "dns-option", "Set DNS options")
	f.Var(&l.dnsSearch, "dns-search", "Set custom DNS search domains")
	f.VarP(&l.env, "env", "e", "Set environment variables")
	f.Var(&l.envFiles, "env-file", "Read in a file of environment variables")
	f.Var(&l.generic, "generic-resource", "User defined resources"+noGeneric)
	f.Var(&l.groups, "group", "Set one or more supplementary user groups for the container")
	f.Var(&l.hosts, "host", "Set one or more custom host-to-IP mappings (host:ip)")
	f.VarP(&l.labels, "label", "l", "Service labels")
	f.Var(&l.mounts, "mount", "Attach a filesystem mount to the service")
	f.Var(&l.networks, "network", "Network attachments")
	f.Var(&l.prefs, "placement-pref", "Add a placement preference")
	f.VarP(&l.ports, "publish", "p", "Publish a port as a node port")
	f.Var(&l.secrets, "secret", "Specify secrets to expose to the service"+noSecrets)
	f.Var(&l.sysctls, "sysctl", "Sysctl options")
	f.Var(&l.ulimits, "ulimit", "Ulimit options")
}

// registerUpdate adds the lists under their names in `service update`.
func (l *lists) registerUpdate(f *pflag.FlagSet) {
	f.Var(&l.capAdd, "cap-add", "Add Linux capabilities")
	f.Var(&l.capDrop, "cap-drop", "Drop Linux capabilities")
	f.Var(&l.configs, "config-add", "Add or update a config file on a service"+noConfigs)
	f.Var(&l.constraints, "constraint-add", "Add or update a placement constraint")
	f.Var(&l.containerLabels, "container-label-add", "Add or update a container label")
	f.Var(&l.devices, "device-add", "Add or update a host device of the containers (format: host[:container[:rwm]])")
	f.Var(&l.dns, "dns-add", "Add or update a custom DNS server")
	f.Var(&l.dnsOptions, "dns-option-add", "Add or update a DNS option")
	f.Var(&l.dnsSearch, "dns-search-add", "Add or update a custom DNS search domain")
	f.Var(&l.env, "env-add", "Add or update an environment variable")
	f.Var(&l.generic, "generic-resource-add", "Add a Generic resource"+noGeneric)
	f.Var(&l.groups, "group-add", "Add an additional supplementary user group to the container")
	f.Var(&l.hosts, "host-add", `Add a custom host-to-IP mapping ("host:ip")`)
	f.Var(&l.labels, "label-add", "Add or update a service label")
	f.Var(&l.mounts, "mount-add", "Add or update a mount on a service")
	f.Var(&l.networks, "network-add", "Add a network")
	f.Var(&l.prefs, "placement-pref-add", "Add a placement preference")
	f.Var(&l.ports, "publish-add", "Add or update a published port")
	f.Var(&l.secrets, "secret-add", "Add or update a secret on a service"+noSecrets)
	f.Var(&l.sysctls, "sysctl-add", "Add or update a Sysctl option")
	f.Var(&l.ulimits, "ulimit-add", "Add or update a ulimit option")
}

// removals are the flags of `service update` that remove values, by name.
type removals map[string]*flag.List

var removalHelp = []struct{ name, help string }{
	{"config-rm", "Remove a configuration file"},
	{"constraint-rm", "Remove a constraint"},
	{"container-label-rm", "Remove a container label by its key"},
	{"device-rm", "Remove a host device by its path in the container"},
	{"dns-option-rm", "Remove a DNS option"},
	{"dns-rm", "Remove a custom DNS server"},
	{"dns-search-rm", "Remove a DNS search domain"},
	{"env-rm", "Remove an environment variable"},
	{"generic-resource-rm", "Remove a Generic resource"},
	{"group-rm", "Remove a previously added supplementary user group from the container"},
	{"host-rm", `Remove a custom host-to-IP mapping ("host:ip")`},
	{"label-rm", "Remove a label by its key"},
	{"mount-rm", "Remove a mount by its target path"},
	{"network-rm", "Remove a network"},
	{"placement-pref-rm", "Remove a placement preference"},
	{"publish-rm", "Remove a published port by its target port"},
	{"secret-rm", "Remove a secret"},
	{"sysctl-rm", "Remove a Sysctl option"},
	{"ulimit-rm", "Remove a ulimit option"},
}

func (r removals) register(f *pflag.FlagSet) {
	for _, rm := range removalHelp {
		r[rm.name] = &flag.List{Kind: "list", Check: func(s string) error {
			if s == "" {
				return fmt.Errorf("name what to remove")
			}
			return nil
		}}
		f.Var(r[rm.name], rm.name, rm.help)
	}
}
