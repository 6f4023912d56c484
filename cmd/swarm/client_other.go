//go:build !linux

package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"

	"swarm/cli/command"
	"swarm/cli/daemon"
	"swarm/cli/dev"
	"swarm/cli/system"
	swarmv1 "swarm/proto/swarm/v1"
)

// On other systems than Linux, swarm is only a command line.

func runAsAnother([]string) bool { return false }

func runDaemon(context.Context, daemon.Options) error { return onlyLinux("the daemon") }

func runRuntime(context.Context, daemon.RuntimeOptions) error {
	return onlyLinux("the container runtime")
}

func startDaemon(context.Context, command.StartRequest) (*command.StartedDaemon, error) {
	return nil, onlyLinux("the daemon")
}

func diagnose(context.Context, system.DoctorRequest) ([]system.Finding, error) {
	return nil, onlyLinux("the doctor")
}

func installs() daemon.Installer { return nil }

func upgrades() daemon.Upgrader { return nil }

func playgrounds() dev.Maker { return nil }

func carries(*swarmv1.VersionInfo) {}

func onlyLinux(what string) error {
	return fmt.Errorf("%s runs on Linux only, this is %s: name a daemon elsewhere with -H: %w", what, runtime.GOOS, errdefs.ErrNotImplemented)
}
