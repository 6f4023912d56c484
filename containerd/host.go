//go:build linux

package containerd

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/contrib/apparmor"
	hostapparmor "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"swarm/containerd/ocispec"
)

// apparmorProfile is loaded into the kernel when the host has AppArmor.
const apparmorProfile = "swarm-default"

// host returns the features of the kernel and runc. The first call reads them, and later calls
// return the same answer.
type host func() ocispec.Host

func newHost(runc string, log *slog.Logger) host {
	return sync.OnceValue(func() ocispec.Host {
		f := featuresOf(cmp.Or(runc, "runc"), log)
		return ocispec.Host{
			Cgroup2:           cgroups.Mode() == cgroups.Unified,
			SwapLimit:         swapLimit(),
			Seccomp:           hasSeccomp(f, log),
			RecursiveReadOnly: recursiveReadOnly(f),
			AppArmor:          loadAppArmor(log),
			Throttling:        throttling(),
		}
	})
}

// throttling lists the folders that count how often a processor was slowed down because of its
// heat.
func throttling() []string {
	folders, _ := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle") // It fails only for a malformed pattern.
	return folders
}

func swapLimit() bool {
	if cgroups.Mode() == cgroups.Unified {
		return true // runc leaves the limit out if the kernel lacks it.
	}
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// featuresOf asks runc for its features. It returns none if runc does not answer.
func featuresOf(runc string, log *slog.Logger) (f features.Features) {
	out, err := exec.Command(runc, "features").Output()
	if err == nil {
		err = json.Unmarshal(out, &f)
	}
	if err != nil {
		log.Warn("runc does not report its features", "runc", runc, "err", err)
		return features.Features{}
	}
	return f
}

// hasSeccomp reports whether both runc and the kernel support seccomp.
func hasSeccomp(f features.Features, log *slog.Logger) bool {
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err != nil {
		return false
	}
	if f.Linux == nil || f.Linux.Seccomp == nil || f.Linux.Seccomp.Enabled == nil || !*f.Linux.Seccomp.Enabled {
		log.Warn("containers run without seccomp profiles: runc was built without them")
		return false
	}
	return true
}

// recursiveReadOnly reports whether runc supports the mount option rro, and the kernel the system
// call that it needs, which exists since Linux 5.12.
func recursiveReadOnly(f features.Features) bool {
	// The call without attributes changes nothing.
	return slices.Contains(f.MountOptions, "rro") && unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{}) == nil
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
