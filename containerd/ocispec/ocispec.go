//go:build linux

// Package ocispec turns what a user says of a container into what runc is told: the whole of a
// revision's container spec, merged with the image's configuration, with Docker's defaults wherever
// the user is silent.
//
// It owns those defaults. It refuses, as ErrInvalidArgument, what cannot run: no command, a user
// the image does not have, a capability or limit by an unknown name. It makes nothing on the host
// and reads only devices and what Host says; folders, files and accounts are handed in. Only
// ReadAccounts reads files. Called by package containerd. No goroutines.
package ocispec

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// ociVersion is understood by runc 1.1 and everything later: nothing newer is used.
const ociVersion = "1.0.2"

// InitPath is where the reaper stands in a container that asks for one: on the tmpfs of /dev, so
// that it leaves no file behind in the image's tree.
const InitPath = "/dev/swarm-init"

// Input is everything that a spec is made of.
type Input struct {
	Container engine.Container
	// Image is the configuration of the container's image.
	Image imagespec.ImageConfig
	// Accounts are those of the image.
	Accounts Accounts
	Host     Host
	// Volumes are the host folders of the spec's mounts of type volume, by the mount's index, and
	// those of mounts of type bind that are not of their own source.
	Volumes map[int]string
	// Anonymous are host folders for paths that the image declares as volumes and no mount covers.
	Anonymous map[string]string
	// Files are the host paths of Container.Files, in that order.
	Files []string
	// Cgroup is the container's cgroup, absolute from the root of every hierarchy.
	Cgroup string
	// Init is the host path of the reaper, a static program.
	Init string
	// Annotations are passed on to the runtime.
	Annotations map[string]string
}

// Host is what of the host decides what can be asked of it.
type Host struct {
	// Cgroup2: the unified hierarchy alone.
	Cgroup2 bool
	// SwapLimit: the kernel accounts swap to cgroups.
	SwapLimit bool
	// Seccomp: runc can apply profiles.
	Seccomp bool
	// RecursiveReadOnly: runc and the kernel can make a mount read-only together with all that is
	// mounted below it.
	RecursiveReadOnly bool
	// AppArmor is the name of the default profile, loaded; empty: the host has no AppArmor.
	AppArmor string
	// Throttling are folders of /sys that tell what other programs do, by the heat of processors.
	Throttling []string
}

// Build makes the spec. ErrInvalidArgument names what is wrong with the input.
func Build(in Input) (*specs.Spec, error) {
	c := in.Container.Spec()
	s := &specs.Spec{
		Version:     ociVersion,
		Root:        &specs.Root{Path: "rootfs", Readonly: c.GetReadOnly()},
		Hostname:    in.Container.Hostname,
		Annotations: maps.Clone(in.Annotations),
		Linux: &specs.Linux{
			CgroupsPath: in.Cgroup,
			Namespaces:  namespaces(in),
			Sysctl:      sysctls(in),
		},
	}
	// In this order: mounts look at the user, the seccomp profile at capabilities.
	for _, part := range []func(*specs.Spec, Input) error{process, mounts, resources, devices, security} {
		if err := part(s, in); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func namespaces(in Input) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
	}
	if in.Container.Netns != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.Container.Netns})
	}
	if in.Host.Cgroup2 && !in.Container.Spec().GetPrivileged() {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// sysctls adds Docker's two: in a network namespace of its own a container may bind low ports and
// send pings without privileges.
func sysctls(in Input) map[string]string {
	set := maps.Clone(in.Container.Spec().GetSysctls())
	if in.Container.Netns == "" {
		return set
	}
	if set == nil {
		set = make(map[string]string, 2)
	}
	for k, v := range map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	} {
		if _, ok := set[k]; !ok {
			set[k] = v
		}
	}
	return set
}

func process(s *specs.Spec, in Input) error {
	c := in.Container.Spec()
	args, err := command(c, in.Image)
	if err != nil {
		return err
	}
	if c.GetInit() {
		if in.Init == "" {
			return fmt.Errorf("container with init: this node has no init program: %w", errdefs.ErrFailedPrecondition)
		}
		args = append([]string{InitPath, "--"}, args...)
	}
	user, err := in.Accounts.User(cmp.Or(c.GetUser(), in.Image.User), c.GetGroups())
	if err != nil {
		return err
	}
	limits, err := rlimits(c.GetUlimits())
	if err != nil {
		return err
	}
	caps, err := capabilities(c)
	if err != nil {
		return err
	}
	s.Process = &specs.Process{
		Terminal:        c.GetTty(),
		User:            user,
		Args:            args,
		Env:             Environment(in.Image.Env, c.GetEnv(), in.Container.Hostname, c.GetTty()),
		Cwd:             WorkingDir(c.GetDir(), in.Image.WorkingDir),
		Capabilities:    caps,
		Rlimits:         limits,
		NoNewPrivileges: c.GetPrivileges().GetNoNewPrivileges(),
	}
	// Without a score of its own a container inherits that of its shim, and with it the daemon's
	// protection.
	score := int(c.GetOomScoreAdj())
	s.Process.OOMScoreAdj = &score
	return nil
}

// command follows Docker: a command of the service's own replaces the image's entrypoint and takes
// its default arguments away too.
func command(c *swarmv1.ContainerSpec, image imagespec.ImageConfig) ([]string, error) {
	entry, args := c.GetCommand(), c.GetArgs()
	if len(entry) == 0 {
		entry = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := slices.Concat(entry, args)
	if len(all) == 0 || all[0] == "" {
		return nil, fmt.Errorf("container: neither the service nor its image has a command: give one: %w", errdefs.ErrInvalidArgument)
	}
	return all, nil
}

// WorkingDir is the first of the folders that is given, or the root.
func WorkingDir(dirs ...string) string {
	for _, d := range dirs {
		if d != "" {
			return path.Join("/", d)
		}
	}
	return "/"
}

// Environment is the image's, changed by the user's: NAME=value sets, a bare NAME removes.
func Environment(image, own []string, hostname string, tty bool) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if hostname != "" {
		env = append(env, "HOSTNAME="+hostname)
	}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return MergeEnv(MergeEnv(env, image), own)
}

// MergeEnv changes an environment: NAME=value sets, a bare NAME removes. A variable keeps its place
// when it is set again.
func MergeEnv(env, changes []string) []string {
	place := make(map[string]int, len(env)+len(changes))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if _, known := place[name]; !known {
			place[name] = i
		}
	}
	for _, change := range changes {
		name, _, set := strings.Cut(change, "=")
		if name == "" {
			continue
		}
		i, known := place[name]
		switch {
		case known && set:
			env[i] = change
		case known:
			env[i] = ""
			delete(place, name)
		case set:
			place[name] = len(env)
			env = append(env, change)
		}
	}
	return slices.DeleteFunc(env, func(e string) bool { return e == "" })
}

func rlimits(limits []*swarmv1.Ulimit) ([]specs.POSIXRlimit, error) {
	var all []specs.POSIXRlimit
	for _, l := range limits {
		name := strings.ToLower(l.GetName())
		if !slices.Contains(ulimitNames, name) {
			return nil, fmt.Errorf("ulimit %q: no such limit, known are %s: %w", l.GetName(), strings.Join(ulimitNames, ", "), errdefs.ErrInvalidArgument)
		}
		if l.GetHard() >= 0 && (l.GetSoft() > l.GetHard() || l.GetSoft() < 0) {
			return nil, fmt.Errorf("ulimit %s: soft limit %d is above the hard limit %d: %w", name, l.GetSoft(), l.GetHard(), errdefs.ErrInvalidArgument)
		}
		// -1 is unlimited, which as an unsigned number is RLIM_INFINITY.
		all = append(all, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: uint64(l.GetSoft()), Hard: uint64(l.GetHard())})
	}
	return all, nil
}

var ulimitNames = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
	"rttime", "sigpending", "stack",
}
