package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"

	"swarm/worker/containerd/server"
)

// runRuntime is the verb behind which containerd runs. The daemon starts it; it
// is not meant for people.
func runRuntime(args []string) error {
	cfg, err := parseRuntime(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
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

func parseRuntime(args []string) (server.Config, error) {
	var cfg server.Config
	fs := flag.NewFlagSet("swarm runtime", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&cfg.Root, "root", "", "persistent folder")
	fs.StringVar(&cfg.State, "state", "", "transient folder")
	fs.StringVar(&cfg.Address, "address", "", "socket to serve on")
	fs.StringVar(&cfg.BinDir, "bin-dir", "", "folder of the shim")
	fs.StringVar(&cfg.LogLevel, "log-level", "warn", "trace, debug, info, warn, error or fatal")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(os.Stdout)
			fs.PrintDefaults()
			return cfg, err
		}
		return cfg, fmt.Errorf("runtime: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if fs.NArg() > 0 {
		return cfg, fmt.Errorf("runtime: unexpected argument %q: %w", fs.Arg(0), errdefs.ErrInvalidArgument)
	}
	return cfg, nil
}
