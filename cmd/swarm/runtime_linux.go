package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"swarm/cli"
	"swarm/internal/footprint"
	"swarm/worker/containerd/reaper"
	"swarm/worker/containerd/server"
	"swarm/worker/containerd/shim"
)

// runAsAnother runs what the program is when it was started under another name: a shim, or a container's reaper.
func runAsAnother(args []string) bool {
	if shim.Invoked(args) {
		shim.Main()
		return true
	}
	if reaper.Invoked(args) {
		os.Exit(reaper.Main(args))
	}
	return false
}

// runRuntime is the verb behind which containerd runs. The daemon starts it; it is not meant for people.
func runRuntime(ctx context.Context, o cli.RuntimeOptions) error {
	// Neither a reader of its log nor a terminal that goes away may end it.
	ignoreHangups()
	trim := time.AfterFunc(footprint.Settled, func() {
		if err := footprint.Trim(); err != nil {
			slog.Warn("memory is not given back", "err", err)
		}
	})
	defer trim.Stop()
	return server.Run(ctx, server.Config{Root: o.Root, State: o.State, Address: o.Address, BinDir: o.BinDir, LogLevel: o.LogLevel})
}
