//go:build linux

package ocispec

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
)

// defaultShmSize is that of Docker, in bytes.
const defaultShmSize = 64 << 20

// mounts adds the file systems of the kernel first, then the user's mounts, parents before
// children, then single files.
func mounts(s *specs.Spec, in Input) error {
	c := in.Container.Spec()
	s.Mounts = kernelMounts(in)
	own, err := userMounts(in)
	if err != nil {
		return err
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return o.Destination == m.Destination })
	})
	s.Mounts = append(s.Mounts, own...)
	// As in Docker, a container may change these unless its root is read-only.
	for _, f := range []struct{ source, target string }{
		{in.Container.ResolvConf, "/etc/resolv.conf"},
		{in.Container.HostnameFile, "/etc/hostname"},
		{in.Container.HostsFile, "/etc/hosts"},
	} {
		if f.source != "" {
			s.Mounts = append(s.Mounts, bind(f.source, f.target, c.GetReadOnly()))
		}
	}
	for _, f := range in.Files {
		if !path.IsAbs(f.Target) {
			return fmt.Errorf("file %q: its path in the container is not absolute: %w", f.Target, errdefs.ErrInvalidArgument)
		}
		s.Mounts = append(s.Mounts, bind(f.Source, f.Target, true))
	}
	if c.GetInit() {
		s.Mounts = append(s.Mounts, bind(in.Init, InitPath, true))
	}
	return nil
}

// maxTerminals is how many pseudo-terminals a container may have. The kernel has 4,096 for all
// mounts of devpts together.
const maxTerminals = 256

// kernelMounts returns the mounts of Docker, with a limit of maxTerminals.
func kernelMounts(in Input) []specs.Mount {
	c := in.Container.Spec()
	ro := "ro"
	if c.GetPrivileged() {
		ro = "rw"
	}
	shm := cmp.Or(c.GetShmSize(), defaultShmSize)
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", "max=" + strconv.Itoa(maxTerminals)}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
	}
}

func userMounts(in Input) ([]specs.Mount, error) {
	var all []specs.Mount
	for i, m := range in.Container.Spec().GetMounts() {
		if !path.IsAbs(m.GetTarget()) || path.Clean(m.GetTarget()) == "/" {
			return nil, fmt.Errorf("mount %q: its target is not an absolute path below /: %w", m.GetTarget(), errdefs.ErrInvalidArgument)
		}
		made, err := userMount(m, in.Volumes[i], in.Host)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.GetTarget(), err)
		}
		made.Destination = path.Clean(m.GetTarget())
		all = append(all, made)
	}
	for _, target := range slices.Sorted(maps.Keys(in.Anonymous)) {
		all = append(all, bind(in.Anonymous[target], path.Clean(target), false))
	}
	slices.SortStableFunc(all, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for i, m := range all {
		if slices.ContainsFunc(all[:i], func(o specs.Mount) bool { return o.Destination == m.Destination }) {
			return nil, fmt.Errorf("mount %s: two mounts have this target: %w", m.Destination, errdefs.ErrInvalidArgument)
		}
	}
	return all, nil
}

func userMount(m *swarmv1.Mount, volume string, host Host) (specs.Mount, error) {
	switch m.GetType() {
	case swarmv1.Mount_BIND:
		if !path.IsAbs(m.GetSource()) {
			return specs.Mount{}, fmt.Errorf("bind source %q is not an absolute path: %w", m.GetSource(), errdefs.ErrInvalidArgument)
		}
		return bindMount(m, cmp.Or(volume, m.GetSource()), host)
	case swarmv1.Mount_VOLUME:
		if volume == "" {
			return specs.Mount{}, fmt.Errorf("volume %q has no folder on this node: %w", m.GetSource(), errdefs.ErrInvalidArgument)
		}
		return userBind(volume, "rprivate", m.GetReadOnly(), false, host), nil
	case swarmv1.Mount_TMPFS:
		return tmpfs(m), nil
	}
	return specs.Mount{}, fmt.Errorf("mounts of type %s are not supported: use bind, volume or tmpfs: %w", m.GetType(), errdefs.ErrInvalidArgument)
}

func bindMount(m *swarmv1.Mount, source string, host Host) (specs.Mount, error) {
	propagation := cmp.Or(m.GetBindOptions().GetPropagation(), "rprivate")
	if !slices.Contains([]string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}, propagation) {
		return specs.Mount{}, fmt.Errorf("propagation %q: known are private, shared, slave, and with r in front: %w", propagation, errdefs.ErrInvalidArgument)
	}
	return userBind(source, propagation, m.GetReadOnly(), m.GetBindOptions().GetNonRecursive(), host), nil
}

// userBind returns a bind mount of a folder, which may have other file systems mounted below it. As
// in Docker, a read-only mount includes them. A host that cannot make them read-only does not mount
// them.
func userBind(source, propagation string, readOnly, alone bool, host Host) specs.Mount {
	m := specs.Mount{Type: "bind", Source: source, Options: []string{"rbind", propagation, "rw"}}
	if readOnly {
		m.Options[2] = "ro"
	}
	switch {
	case alone, readOnly && !host.RecursiveReadOnly:
		m.Options[0] = "bind"
	case readOnly:
		m.Options = append(m.Options, "rro")
	}
	return m
}

func tmpfs(m *swarmv1.Mount) specs.Mount {
	o := m.GetTmpfsOptions()
	options := []string{"nosuid", "nodev", "noexec"}
	if size := o.GetSizeBytes(); size > 0 {
		options = append(options, "size="+strconv.FormatInt(size, 10))
	}
	options = append(options, "mode="+strconv.FormatUint(uint64(cmp.Or(o.GetMode(), 0o1777)), 8))
	if m.GetReadOnly() {
		options = append(options, "ro")
	}
	return specs.Mount{Type: "tmpfs", Source: "tmpfs", Options: append(options, o.GetOptions()...)}
}

func bind(source, target string, readOnly bool) specs.Mount {
	mode := "rw"
	if readOnly {
		mode = "ro"
	}
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", mode}}
}
