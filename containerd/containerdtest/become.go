//go:build linux

package containerdtest

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"swarm/containerd/reaper"
	"swarm/containerd/server"
	"swarm/containerd/shim"
)

// Become makes the test binary behave as a shim, as the reaper or as containerd if it was started
// as one of them, and does not return then. TestMain calls it first.
func Become() {
	switch {
	case shim.Invoked(os.Args):
		shim.Main()
		os.Exit(0)
	case reaper.Invoked(os.Args):
		os.Exit(reaper.Main(os.Args))
	case len(os.Args) > 1 && os.Args[1] == "runtime":
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Under the race detector, each program that the tests start would sleep for a second before it
	// ends.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
}

func serve(args []string) error {
	cfg, err := server.ParseArgs(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return server.Run(ctx, cfg)
}
