package main

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"swarm/cli/daemon"
	"swarm/internal/footprint"
	"swarm/internal/pause"
	"swarm/overlay/resolve"
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
func runRuntime(ctx context.Context, o daemon.RuntimeOptions) error {
	// Neither a reader of its log nor a terminal that goes away may end it.
	ignoreHangups()
	ctx, stop := context.WithCancel(ctx)
	var kept sync.WaitGroup
	kept.Go(func() { footprint.Keep(ctx, footprint.Free) })
	defer kept.Wait()
	defer stop()
	return server.Run(ctx, server.Config{Root: o.Root, State: o.State, Address: o.Address, BinDir: o.BinDir, LogLevel: o.LogLevel},
		func(ctx context.Context) { answerNames(ctx, layout.Resolver(o.Address)) })
}

// answerNames answers what containers ask their name server. That it cannot is no reason to stop serving containers.
func answerNames(ctx context.Context, socket string) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for {
		err := resolve.New(resolve.Config{Socket: socket}, resolve.Deps{Log: log}).Run(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Error("names are not answered", "err", err, "retry", time.Second)
		if pause.For(ctx, time.Second) != nil {
			return
		}
	}
}
