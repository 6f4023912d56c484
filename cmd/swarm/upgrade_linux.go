package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"swarm/cli/daemon"
	"swarm/install"
	"swarm/internal/notify"
)

// upgrader implements daemon.Upgrader by package install.
type upgrader struct{}

func upgrades() daemon.Upgrader { return upgrader{} }

// Stage implements daemon.Upgrader.
func (upgrader) Stage(ctx context.Context, path, stateDir string) (daemon.Program, func() error, error) {
	p, release, err := install.Stage(ctx, path, stateDir)
	return daemon.Program(p), release, err
}

// Replace implements daemon.Upgrader.
func (upgrader) Replace(_ context.Context, socket string, p daemon.Program) (string, func() error, error) {
	return install.Replace(socket, install.Staged(p))
}

// become replaces this process by the installed program, which reports to the same starter. It
// returns only if that fails.
func become(s notify.Starter) error {
	program, err := os.Executable() // the path from the start of this process, where the new program is now
	if err != nil {
		return fmt.Errorf("restart as the installed build: %w", err)
	}
	return fmt.Errorf("restart as the installed build %s: %w", program, syscall.Exec(program, os.Args, append(os.Environ(), s.Env()...)))
}
