//go:build linux

package containerd

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"sync"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/contrib/apparmor"
	hostapparmor "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"swarm/worker/containerd/ocispec"
)

// apparmorProfile is loaded into the kernel when the host has AppArmor.
const apparmorProfile = "swarm-default"

// host finds out, when the first container is made, what the kernel and runc can do.
type host func() ocispec.Host

func newHost(runc string, log *slog.Logger) host {
	return sync.OnceValue(func() ocispec.Host {
		return ocispec.Host{
			Cgroup2:   cgroups.Mode() == cgroups.Unified,
			SwapLimit: swapLimit(),
			Seccomp:   seccompOf(cmp.Or(runc, "runc"), log),
			AppArmor:  loadAppArmor(log),
		}
	})
}

func swapLimit() bool {
	if cgroups.Mode() == cgroups.Unified {
		return true // runc leaves out what the kernel does not have
	}
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// seccompOf asks runc whether it was built with seccomp, and the kernel.
func seccompOf(runc string, log *slog.Logger) bool {
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err != nil {
		return false
	}
	out, err := exec.Command(runc, "features").Output()
	var f features.Features
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil || f.Linux == nil || f.Linux.Seccomp == nil || f.Linux.Seccomp.Enabled == nil || !*f.Linux.Seccomp.Enabled {
		log.Warn("containers run without seccomp profiles: runc was built without them", "runc", runc, "err", err)
		return false
	}
	return true
}

func loadAppArmor(log *slog.Logger) string {
	if !hostapparmor.HostSupports() {
		return ""
	}
	if err := apparmor.LoadDefaultProfile(apparmorProfile); err != nil {
		log.Warn("containers run without an AppArmor profile", "err", err)
		return ""
	}
	return apparmorProfile
}
