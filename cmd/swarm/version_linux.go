package main

import (
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/version"

	"swarm/containerd/binary"
	"swarm/containerd/runc"
	swarmv1 "swarm/proto/swarm/v1"
)

// runningProgram is the file that this process runs, whatever was put at its path since.
const runningProgram = "/proc/self/exe"

// build names this program's build; reading its own file once is enough.
var build = sync.OnceValue(func() string {
	id, err := binary.BuildID(runningProgram, version)
	if err != nil {
		return version
	}
	return id
})

// carries adds the parts that only Linux has.
func carries(v *swarmv1.VersionInfo) {
	v.Containerd, _, _ = strings.Cut(containerd.Version, "+")
	v.Build = build()
	if runc.Embedded() == nil {
		v.Runc = "of the host"
		return
	}
	v.Runc, v.Seccomp = runc.Version(), runc.Seccomp()
}
