package main

import (
	"runtime"

	swarmv1 "swarm/proto/swarm/v1"
)

// versionInfo describes this program and the programs that are embedded in it.
func versionInfo() *swarmv1.VersionInfo {
	v := &swarmv1.VersionInfo{
		Version: version, Revision: revision, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	carries(v)
	return v
}
