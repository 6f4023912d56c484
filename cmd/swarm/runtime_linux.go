package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"swarm/worker/containerd/server"
)

// runRuntime is the verb behind which containerd runs. The daemon starts it; it
// is not meant for people.
func runRuntime(args []string) error {
	cfg, err := server.ParseArgs(args)
	if err != nil {
		return err
	}
	// Neither a reader of its log nor a terminal that goes away may end it. The
	// signals are caught, not ignored: shims and containers would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return server.Run(ctx, cfg)
}
