//go:build linux

package ocispec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
)

// defaultCapabilities are those of Docker.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities returns the capabilities of a container. As in Docker, the service may add ALL, and
// those that it drops by name are left out; or drop ALL, and those that it adds by name stay. When
// a user other than root starts the program, the kernel removes the permitted capabilities. None
// are inheritable or ambient.
func capabilities(c *swarmv1.ContainerSpec) (*specs.LinuxCapabilities, error) {
	possible, err := cap.Current()
	if err != nil {
		return nil, fmt.Errorf("capabilities of the daemon: %w", err)
	}
	set, err := capabilitySet(c, possible)
	if err != nil {
		return nil, err
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}, nil
}

func capabilitySet(c *swarmv1.ContainerSpec, possible []string) ([]string, error) {
	if c.GetPrivileged() {
		return possible, nil
	}
	add, err := capabilityNames(c.GetCapabilityAdd())
	if err != nil {
		return nil, err
	}
	drop, err := capabilityNames(c.GetCapabilityDrop())
	if err != nil {
		return nil, err
	}
	const all = "ALL"
	var set []string
	switch {
	case slices.Contains(add, all):
		set = slices.DeleteFunc(slices.Clone(possible), func(n string) bool { return slices.Contains(drop, n) })
	case slices.Contains(drop, all):
		set = add
	default:
		set = slices.Concat(defaultCapabilities, add)
		set = slices.DeleteFunc(set, func(n string) bool { return slices.Contains(drop, n) })
	}
	slices.Sort(set)
	return slices.Compact(set), nil
}

func capabilityNames(names []string) ([]string, error) {
	known := cap.Known()
	var all []string
	for _, n := range names {
		full := strings.ToUpper(n)
		if full == "ALL" {
			all = append(all, full)
			continue
		}
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if !slices.Contains(known, full) {
			return nil, fmt.Errorf("capability %q: no such capability: %w", n, errdefs.ErrInvalidArgument)
		}
		all = append(all, full)
	}
	return all, nil
}
