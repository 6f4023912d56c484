//go:build linux

// Package process owns the end of a daemon's process: the signals that end it, the question whether
// its host shuts down, the time that its tasks and parts may take to end, and the exec of another
// build.
//
// A daemon that only restarts leaves its containers running. A daemon whose host shuts down first
// stops the containers, with their stop grace period, while the init waits. cmd/swarm is the only
// caller, and passes functions for the parts of a daemon. Goroutines: one in Watch, which ends with
// its context, one in Depart and one in Wait. If the function that Depart or Wait runs does not
// return in time, its goroutine goes on until the process ends.
package process

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
)

// downSignal tells a daemon that its host shuts down. It is for hosts whose init cannot be asked.
// The signal is the one for a power failure.
const downSignal = syscall.SIGPWR

var (
	// errReplaced ends a daemon whose program was replaced by another build.
	errReplaced = errors.New("another build takes over")
	// errDown ends a daemon whose host shuts down.
	errDown = errors.New("the host is going down")
)

const (
	// askTimeout bounds how long the init may take to say whether the host shuts down.
	askTimeout = 5 * time.Second
	// departTimeout bounds how long tasks with a long grace period may delay a shutdown. Then the
	// daemon ends, and systemd kills the containers that are left.
	departTimeout = 5 * time.Minute
	// departInterval is how often Depart asks the service manager for more time. It asks for twice
	// that.
	departInterval = 10 * time.Second
	// endGrace is how long the parts of a daemon may take to end. A part that takes longer hangs in
	// the kernel, for example in a file system that does not answer, and ends with the process.
	endGrace = 10 * time.Second
)

// IgnoreHangups lets this process continue when its terminal, or the reader of its output, goes
// away. The signals are caught and not ignored, because child processes inherit ignored signals.
func IgnoreHangups() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP) }

// Watch returns a context that ends with ctx, and on the signals to exec another build and that the
// host shuts down. The caller handles all other signals.
func Watch(ctx context.Context) (context.Context, context.CancelFunc) {
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

// Replaced reports whether a context of Watch has ended because another build takes over.
func Replaced(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errReplaced) }

// Become replaces this process by the installed program, which reports to the same starter. It
// returns only if that fails.
func Become(s notify.Starter) error {
	program, err := os.Executable() // the path from the start of this process, where the new program is now
	if err != nil {
		return fmt.Errorf("restart as the installed build: %w", err)
	}
	return fmt.Errorf("restart as the installed build %s: %w", program, syscall.Exec(program, os.Args, append(os.Environ(), s.Env()...)))
}

// Depart calls leave if the host shuts down. If only this daemon ends, Depart does nothing. leave
// says goodbye to the cluster and stops the tasks. ended is the context of Watch, which has ended.
// Depart returns when leave has returned, or after 5 minutes. Until then it asks the service
// manager for more time.
func Depart(ended context.Context, leave func(context.Context) error, s notify.Starter, log *slog.Logger) {
	depart(ended, leave, install.New(install.Config{}).GoingDown, s.Tell, log)
}

func depart(ended context.Context, leave func(context.Context) error, goingDown func(context.Context) bool, tell func(string) error, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ended), departTimeout)
	defer cancel()
	switch cause := context.Cause(ended); {
	case errors.Is(cause, errDown):
	case errors.Is(cause, errReplaced) || !asked(ctx, goingDown):
		return
	}
	log.Info("the host is going down: tasks are stopped")
	done := make(chan error, 1)
	go func() { done <- leave(ctx) }()
	more := time.NewTicker(departInterval)
	defer more.Stop()
	for {
		if err := tell(fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", (2 * departInterval).Microseconds())); err != nil {
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

func asked(ctx context.Context, goingDown func(context.Context) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return goingDown(ctx)
}

// Wait returns the result of wait, which waits for the parts of a daemon. If wait has not returned
// 10 seconds after the end of ctx, Wait logs that and returns nil: the process ends without the
// part that hangs.
func Wait(ctx context.Context, wait func() error, log *slog.Logger) error {
	ended := make(chan error, 1)
	go func() { ended <- wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(endGrace)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		log.Error("the daemon ends without a part that does not end", "after", endGrace, "cause", context.Cause(ctx))
		return nil
	}
}
