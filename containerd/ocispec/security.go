//go:build linux

package ocispec

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
)

// maskedPaths, together with Host.Throttling, and readonlyPaths are those of Docker.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func security(s *specs.Spec, in Input) error {
	c := in.Container.Spec()
	if !c.GetPrivileged() {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = slices.Concat(maskedPaths, in.Host.Throttling), readonlyPaths
	}
	if err := apparmor(s, in); err != nil {
		return err
	}
	if se := c.GetPrivileges().GetSelinuxContext(); se != nil && !se.GetDisable() && se.GetType() != "" {
		s.Process.SelinuxLabel = fmt.Sprintf("%s:%s:%s:%s",
			cmp.Or(se.GetUser(), "system_u"), cmp.Or(se.GetRole(), "system_r"), se.GetType(), cmp.Or(se.GetLevel(), "s0"))
	}
	var err error
	s.Linux.Seccomp, err = seccompProfile(s, in)
	return err
}

func apparmor(s *specs.Spec, in Input) error {
	o := in.Container.Spec().GetPrivileges().GetApparmor()
	switch o.GetMode() {
	case swarmv1.AppArmorOpts_CUSTOM:
		if in.Host.AppArmor == "" {
			return fmt.Errorf("AppArmor profile %q: this host has no AppArmor: %w", o.GetProfile(), errdefs.ErrInvalidArgument)
		}
		s.Process.ApparmorProfile = o.GetProfile()
	case swarmv1.AppArmorOpts_DISABLED:
		if in.Host.AppArmor != "" {
			s.Process.ApparmorProfile = "unconfined"
		}
	default:
		s.Process.ApparmorProfile = in.Host.AppArmor
		if in.Host.AppArmor != "" && in.Container.Spec().GetPrivileged() {
			s.Process.ApparmorProfile = "unconfined"
		}
	}
	return nil
}

// seccompProfile returns the seccomp profile. As in Docker, on a host without seccomp it returns an
// error for a service with its own profile, and no profile for any other service.
func seccompProfile(s *specs.Spec, in Input) (*specs.LinuxSeccomp, error) {
	o := in.Container.Spec().GetPrivileges().GetSeccomp()
	switch o.GetMode() {
	case swarmv1.SeccompOpts_UNCONFINED:
		return nil, nil
	case swarmv1.SeccompOpts_CUSTOM:
		if !in.Host.Seccomp {
			return nil, fmt.Errorf("seccomp profile: this host's kernel or runc cannot apply one: %w", errdefs.ErrInvalidArgument)
		}
		p, err := customSeccomp(o.GetProfile(), s.Process.Capabilities.Bounding)
		if err != nil {
			return nil, fmt.Errorf("seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return p, nil
	}
	if !in.Host.Seccomp || in.Container.Spec().GetPrivileged() {
		return nil, nil
	}
	return seccomp.DefaultProfile(s), nil
}
