//go:build linux

package ocispec

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/containerd/containerd/v2/pkg/kernelversion"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// dockerProfile is a seccomp profile in Docker's format: that of the OCI spec with conditions.
type dockerProfile struct {
	DefaultAction    specs.LinuxSeccompAction `json:"defaultAction"`
	DefaultErrnoRet  *uint                    `json:"defaultErrnoRet"`
	Architectures    []specs.Arch             `json:"architectures"`
	ArchMap          []dockerArch             `json:"archMap"`
	Flags            []specs.LinuxSeccompFlag `json:"flags"`
	ListenerPath     string                   `json:"listenerPath"`
	ListenerMetadata string                   `json:"listenerMetadata"`
	Syscalls         []dockerSyscall          `json:"syscalls"`
}

type dockerArch struct {
	Arch specs.Arch   `json:"architecture"`
	Subs []specs.Arch `json:"subArchitectures"`
}

type dockerSyscall struct {
	specs.LinuxSyscall
	Name     string          `json:"name"`
	Includes dockerCondition `json:"includes"`
	Excludes dockerCondition `json:"excludes"`
}

// dockerCondition selects containers with all of the capabilities, hosts of one of the
// architectures (in the names of Go), and kernels from a version on. A rule applies to them, or
// does not.
type dockerCondition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// customSeccomp reads a profile, in Docker's format or that of the OCI spec, for a container with
// these capabilities.
func customSeccomp(profile []byte, caps []string) (*specs.LinuxSeccomp, error) {
	var p dockerProfile
	if err := json.Unmarshal(profile, &p); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if p.DefaultAction == "" {
		return nil, errors.New("it has no defaultAction")
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, errors.New("it has both architectures and archMap: choose one")
	}
	s := &specs.LinuxSeccomp{
		DefaultAction:    p.DefaultAction,
		DefaultErrnoRet:  p.DefaultErrnoRet,
		Architectures:    p.Architectures,
		Flags:            p.Flags,
		ListenerPath:     p.ListenerPath,
		ListenerMetadata: p.ListenerMetadata,
	}
	for _, a := range p.ArchMap {
		if a.Arch == nativeArch() {
			s.Architectures = append([]specs.Arch{a.Arch}, a.Subs...)
		}
	}
	for i, call := range p.Syscalls {
		applies, err := call.applies(caps)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		if !applies {
			continue
		}
		rule := call.LinuxSyscall
		switch {
		case call.Name != "" && len(rule.Names) > 0:
			return nil, fmt.Errorf("rule %d: it has both name and names: choose one", i)
		case call.Name != "":
			rule.Names = []string{call.Name}
		case len(rule.Names) == 0:
			return nil, fmt.Errorf("rule %d: it names no system call", i)
		}
		s.Syscalls = append(s.Syscalls, rule)
	}
	return s, nil
}

func (c dockerSyscall) applies(caps []string) (bool, error) {
	has := func(name string) bool { return slices.Contains(caps, name) }
	in, out := c.Includes, c.Excludes
	if slices.Contains(out.Arches, runtime.GOARCH) || slices.ContainsFunc(out.Caps, has) {
		return false, nil
	}
	if len(in.Arches) > 0 && !slices.Contains(in.Arches, runtime.GOARCH) {
		return false, nil
	}
	for _, name := range in.Caps {
		if !has(name) {
			return false, nil
		}
	}
	if in.MinKernel != "" {
		if new, err := kernelSince(in.MinKernel); err != nil || !new {
			return false, err
		}
	}
	if out.MinKernel != "" {
		if new, err := kernelSince(out.MinKernel); err != nil || new {
			return false, err
		}
	}
	return true, nil
}

func kernelSince(version string) (bool, error) {
	var v kernelversion.KernelVersion
	if _, err := fmt.Sscanf(version, "%d.%d", &v.Kernel, &v.Major); err != nil {
		return false, fmt.Errorf("minKernel %q is not of the form 4.8: %w", version, err)
	}
	return kernelversion.GreaterEqualThan(v)
}

func nativeArch() specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	case "arm":
		return specs.ArchARM
	case "386":
		return specs.ArchX86
	case "riscv64":
		return specs.ArchRISCV64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "s390x":
		return specs.ArchS390X
	}
	return ""
}
