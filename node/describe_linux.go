package node

import (
	"runtime"

	"golang.org/x/sys/unix"

	swarmv1 "swarm/proto/swarm/v1"
)

// Describe returns what the kernel says about this machine (platform, resources and kernel
// version), the versions of the program, and the engine labels. The caller fills in the rest.
func Describe(program *swarmv1.VersionInfo, labels map[string]string) *swarmv1.NodeDescription {
	var uname unix.Utsname
	_ = unix.Uname(&uname) // cannot fail with a valid pointer
	var memory unix.Sysinfo_t
	_ = unix.Sysinfo(&memory) // cannot fail with a valid pointer
	return &swarmv1.NodeDescription{
		Platform: &swarmv1.Platform{Os: runtime.GOOS, Architecture: architecture(runtime.GOARCH)},
		Resources: &swarmv1.Resources{
			NanoCpus: int64(runtime.NumCPU()) * 1e9, MemoryBytes: int64(memory.Totalram) * int64(memory.Unit),
		},
		Engine: &swarmv1.EngineDescription{
			EngineVersion: program.GetVersion(), Build: program.GetBuild(), RuntimeVersion: "containerd " + program.GetContainerd(),
			KernelVersion: unix.ByteSliceToString(uname.Release[:]), Labels: labels,
		},
	}
}

// architecture translates Go's name of an architecture into that of Docker's API.
func architecture(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	default:
		return goarch
	}
}
