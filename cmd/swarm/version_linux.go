package main

import (
	"strings"

	containerd "github.com/containerd/containerd/v2/version"

	"swarm/worker/containerd/runc"
)

// components names what this file carries besides swarm itself.
func components() []string {
	version, _, _ := strings.Cut(containerd.Version, "+")
	oci := "runc " + runc.Version()
	switch {
	case runc.Embedded() == nil:
		oci = "runc of the host (built without one)"
	case !runc.Seccomp():
		oci += " (built without seccomp: containers run without its profiles)"
	}
	return []string{"containerd " + version, oci}
}
