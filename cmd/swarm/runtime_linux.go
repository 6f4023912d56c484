package main

import (
	"context"
	"log/slog"
	"os"
	"sync"

	"swarm/adapter/dataplane"
	"swarm/cli"
	"swarm/install/process"
	"swarm/internal/footprint"
	"swarm/worker/containerd/layout"
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
