//go:build linux

// Package ocispec builds the OCI spec of a container, which tells runc what to run: the container
// spec of a service's revision, merged with the image's configuration, and with Docker's defaults
// for everything that the user has not set.
//
// It owns these defaults. It returns ErrInvalidArgument for a container that cannot run: without a
// command, with a user that the image does not have, or with an unknown capability or limit. It
// makes nothing on the host. The caller passes folders, files and accounts; the package itself
// reads only devices, and accounts in ReadAccounts. Packages containerd, imagecache and exec call
// it. It runs no goroutine.
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

// ociVersion is the version of the spec, which runc 1.1 and later understand. The package uses no
// newer fields.
const ociVersion = "1.0.2"

// InitPath is the path of the reaper in a container that asks for an init process. It is on the
// tmpfs of /dev, so that no file is left in the container's tree.
const InitPath = "/dev/swarm-init"

// Input is everything from which a spec is built.
type Input struct {
	Container engine.Container
	// Image is the configuration of the container's image.
	Image imagespec.ImageConfig
	// Accounts are the accounts of the image.
	Accounts Accounts
	Host     Host
	// Volumes has the host folders of mounts of type volume, by the index of the mount, and those
	// of mounts of type bind whose source was replaced.
	Volumes map[int]string
	// Anonymous has the host folders of the paths that the image declares as volumes and no mount
	// covers.
	Anonymous map[string]string
	// Files has the host paths of Container.Files, in that order.
	Files []string
	// Cgroup is the path of the container's cgroup from the root of every hierarchy, or systemd's
	// "slice:prefix:name".
	Cgroup string
	// Init is the host path of the reaper, a static program. It is empty if there is none.
	Init string
	// Annotations are copied into the spec.
	Annotations map[string]string
}

// Host says which features the host has.
type Host struct {
	// Cgroup2 says that the host has only the unified cgroup hierarchy.
	Cgroup2 bool
	// SwapLimit says that the kernel accounts swap to cgroups.
	SwapLimit bool
	// Seccomp says that runc can apply seccomp profiles.
	Seccomp bool
	// RecursiveReadOnly says that runc and the kernel can make a mount read-only with all mounts
	// below it.
	RecursiveReadOnly bool
	// AppArmor is the name of the default profile, which is loaded. It is empty if the host has no
	// AppArmor.
	AppArmor string
	// Throttling has folders of /sys that reveal the activity of other programs by the heat of
	// processors. They are hidden from containers.
	Throttling []string
}

// Build returns the spec. ErrInvalidArgument: a part of the input, which the error names, is not
// valid.
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
	// The order matters in one place: the seccomp profile (security) needs the capabilities
	// (process).
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

// sysctls adds two sysctls, as Docker does: in its own network namespace, a container may bind low
// ports and send pings without privileges.
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
	// Without its own score, a container inherits that of its shim, and so the daemon's protection.
	score := int(c.GetOomScoreAdj())
	s.Process.OOMScoreAdj = &score
	return nil
}

// command returns the command, as in Docker: a command of the service replaces the entrypoint of
// the image and removes its default arguments.
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

// WorkingDir returns the first folder that is not empty, or the root.
func WorkingDir(dirs ...string) string {
	for _, d := range dirs {
		if d != "" {
			return path.Join("/", d)
		}
	}
	return "/"
}

// Environment returns the environment of the image with the changes of the service: NAME=value sets
// a variable, and NAME removes it.
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

// MergeEnv changes an environment: NAME=value sets a variable, and NAME removes it. A variable that
// is set again keeps its place.
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
