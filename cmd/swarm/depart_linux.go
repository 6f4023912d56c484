package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"swarm/install"
	"swarm/internal/notify"
	"swarm/node"
)

// downSignal tells a daemon that its host goes down, for inits that cannot be asked. It is that of power failures.
const downSignal = syscall.SIGPWR

var (
	// errReplaced ends a daemon that is to become another build.
	errReplaced = errors.New("another build takes over")
	// errDown ends a daemon whose host goes down.
	errDown = errors.New("the host is going down")
)

const (
	// askPatience is how long the init may take to say whether the host goes down.
	askPatience = 5 * time.Second
	// departLimit bounds what tasks with a long grace may hold a shutdown up. Systemd ends what is left.
	departLimit = 5 * time.Minute
	// departSteps is how often a service manager is asked for more time; it grants twice that.
	departSteps = 10 * time.Second
)

// untilTold returns a context that ends with errReplaced or errDown when such a signal comes.
func untilTold(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, install.ReplaceSignal, downSignal)
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		select {
		case s := <-signals:
			if s == downSignal {
				end(errDown)
			} else {
				end(errReplaced)
			}
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// depart has the node say goodbye and stop its tasks when what ended told is the host's end and not the daemon's alone.
func depart(told context.Context, n *node.Node, s notify.Starter, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(told), departLimit)
	defer cancel()
	switch cause := context.Cause(told); {
	case errors.Is(cause, errDown):
	case errors.Is(cause, errReplaced) || !goingDown(ctx):
		return
	}
	log.Info("the host is going down: tasks are stopped")
	done := make(chan error, 1)
	go func() { done <- n.Depart(ctx) }()
	more := time.NewTicker(departSteps)
	defer more.Stop()
	for {
		if err := s.Tell(fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", (2 * departSteps).Microseconds())); err != nil {
			log.Warn("ask for time to stop tasks", "err", err)
		}
		select {
		case err := <-done:
			if err != nil {
				log.Warn("leave before the host goes down", "err", err)
			}
			return
		case <-more.C:
		}
	}
}

func goingDown(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return install.New(install.Config{}).GoingDown(ctx)
}
