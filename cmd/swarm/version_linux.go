package main

import (
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/version"

	"swarm/containerd/binary"
	"swarm/containerd/runc"
	swarmv1 "swarm/proto/swarm/v1"
)

// runningProgram is the file that this process runs, even if another file is at its path now.
const runningProgram = "/proc/self/exe"

// build returns the ID of this program's build. It reads the file of the program once.
var build = sync.OnceValue(func() string {
	id, err := binary.BuildID(runningProgram, version)
	if err != nil {
		return version
	}
	return id
})

// carries adds the parts that only the program for Linux has.
func carries(v *swarmv1.VersionInfo) {
	v.Containerd, _, _ = strings.Cut(containerd.Version, "+")
	v.Build = build()
	if runc.Embedded() == nil {
		v.Runc = "of the host"
		return
	}
	v.Runc, v.Seccomp = runc.Version(), runc.Seccomp()
}
