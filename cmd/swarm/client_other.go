//go:build !linux

package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"

	"swarm/cli"
	"swarm/cli/command"
	swarmv1 "swarm/proto/swarm/v1"
)

// Elsewhere than on Linux swarm is a command line only.

func runAsAnother([]string) bool { return false }

func runDaemon(context.Context, cli.DaemonOptions) error { return onlyLinux("the daemon") }

func runRuntime(context.Context, cli.RuntimeOptions) error { return onlyLinux("the container runtime") }

func startDaemon(context.Context, command.StartRequest) (*command.StartedDaemon, error) {
	return nil, onlyLinux("the daemon")
}

func diagnose(context.Context, cli.DoctorRequest) ([]cli.Finding, error) {
	return nil, onlyLinux("the doctor")
}

func installs() cli.Installer { return nil }

func upgrades() cli.Upgrader { return nil }

func playgrounds() cli.Dev { return nil }

func carries(*swarmv1.VersionInfo) {}

func onlyLinux(what string) error {
	return fmt.Errorf("%s runs on Linux only, this is %s: name a daemon elsewhere with -H: %w", what, runtime.GOOS, errdefs.ErrNotImplemented)
}
