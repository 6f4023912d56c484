package main

import (
	"context"
	"log/slog"
	"os"
	"sync"

	"swarm/adapter/dataplane"
	"swarm/cli/daemon"
	"swarm/containerd/layout"
	"swarm/containerd/reaper"
	"swarm/containerd/server"
	"swarm/containerd/shim"
	"swarm/install/process"
	"swarm/internal/footprint"
)

// runAsAnother runs the program as a shim or as a container's reaper if it was started under that
// name. It returns false for any other name.
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

// runRuntime runs the container runtime, which the daemon starts as a process of its own.
func runRuntime(ctx context.Context, o daemon.RuntimeOptions) error {
	// The runtime outlives the daemon, and with it the reader of its output.
	process.IgnoreHangups()
	ctx, stop := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { footprint.Keep(ctx, footprint.Free) })
	defer kept.Wait()
	defer stop()
	return server.Run(ctx, server.Config{Root: o.Root, State: o.State, Address: o.Address, BinDir: o.BinDir, LogLevel: o.LogLevel},
		func(ctx context.Context) {
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			dataplane.ServeNames(ctx, layout.Resolver(o.Address), log)
		})
}
