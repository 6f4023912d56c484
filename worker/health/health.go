// Package health decides whether a container is healthy, by the check that its service or its image
// defines: a command in the container, or an HTTP, TCP or gRPC request from inside its network
// namespace.
//
// Before the first success a failed check is repeated after 50 ms, doubling up to the interval,
// because most programs listen within milliseconds of their start, and users should not wait for a
// whole interval. An HTTP, TCP or gRPC check dials on a thread that has entered the container's
// network namespace. The thread ends with the dial.
//
// A Prober belongs to one container and is used by one goroutine at a time. Package tasks calls it
// while it waits for the container's end. It starts no goroutine that outlives a call. A check of a
// kind that it does not know fails with an error that says so.
package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

// Docker's defaults.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
)

// Target says how a check reaches the container.
type Target struct {
	// Exec runs a command in the container and returns its exit code. ErrUnavailable: the command
	// could not be run, and the container is not the reason. Such a check counts neither as passed
	// nor as failed.
	Exec func(ctx context.Context, command []string, out *Output) (int, error)
	// Shell runs checks of kind CMD-SHELL; empty: /bin/sh -c.
	Shell []string
	// Netns is the path of the container's network namespace; empty: the host's.
	Netns string
}

// Merge returns the check of a service. As in Docker, fields that the service does not set have the
// values of the image's check. It returns nil if neither has a check. The result may be of the kind
// NONE, see Enabled.
func Merge(service, image *swarmv1.HealthConfig) *swarmv1.HealthConfig {
	switch {
	case image == nil:
		return service
	case service == nil:
		return image
	}
	m := service.CloneVT()
	if len(m.Test) == 0 {
		m.Test = image.Test
	}
	m.Interval, m.Timeout = orNext(m.Interval, image.Interval), orNext(m.Timeout, image.Timeout)
	m.StartPeriod, m.StartInterval = orNext(m.StartPeriod, image.StartPeriod), orNext(m.StartInterval, image.StartInterval)
	m.Retries = cmp.Or(m.Retries, image.Retries)
	return m
}

func orNext(d, next *durationpb.Duration) *durationpb.Duration {
	if d.AsDuration() > 0 {
		return d
	}
	return next
}

// Enabled reports whether c asks for a check.
func Enabled(c *swarmv1.HealthConfig) bool {
	return len(c.GetTest()) > 0 && !strings.EqualFold(c.Test[0], "NONE")
}

// Prober checks one container. One goroutine uses it at a time.
type Prober struct {
	check   func(context.Context) error
	cfg     config
	began   time.Time // when the start period began
	healthy bool      // the check has passed at least once
	failed  int       // number of failures in a row
}

type config struct {
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
}

// New returns a Prober. The start period begins with its first use.
func New(c *swarmv1.HealthConfig, target Target) *Prober {
	return &Prober{check: checkOf(c.GetTest(), target), cfg: config{
		interval:      or(c.GetInterval(), defaultInterval),
		timeout:       or(c.GetTimeout(), defaultTimeout),
		startPeriod:   c.GetStartPeriod().AsDuration(),
		startInterval: or(c.GetStartInterval(), defaultStartInterval),
		retries:       orInt(int(c.GetRetries()), defaultRetries),
	}}
}

func or(d *durationpb.Duration, def time.Duration) time.Duration {
	if v := d.AsDuration(); v > 0 {
		return v
	}
	return def
}

func orInt(n, def int) int {
	if n > 0 {
		return n
	}
	return def
}

// firstPause is the pause after the first failed check of a container that was never healthy. It
// doubles up to the interval; see the package comment. These early checks come in addition to
// Docker's, so their failures do not count, with or without a start period.
const firstPause = 50 * time.Millisecond

// errNotRun means that a check could not be run, so that it neither passed nor failed.
var errNotRun = errors.New("the check could not be made")

// UntilHealthy checks the container until a check passes, and then returns nil. If the check has
// failed too often in a row, it returns an error with the reason. If ctx ends first, it returns the
// error of ctx.
func (p *Prober) UntilHealthy(ctx context.Context) error {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	quick := firstPause
	for {
		err := p.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			p.healthy, p.failed = true, 0
			return nil
		}
		interval := p.cfg.interval
		if p.starting() {
			interval = min(interval, p.cfg.startInterval)
		}
		wait := interval
		if quick < interval && time.Since(p.began) < interval {
			wait = quick
			quick *= 2
		} else if !p.starting() && !errors.Is(err, errNotRun) {
			p.failed++
			if p.failed >= p.cfg.retries {
				return fmt.Errorf("unhealthy: %w", err)
			}
		}
		if pause.For(ctx, wait) != nil {
			return ctx.Err()
		}
	}
}

// UntilUnhealthy checks a healthy container until the check has failed too often in a row, and then
// returns an error with the reason. If ctx ends first, it returns the error of ctx.
func (p *Prober) UntilUnhealthy(ctx context.Context) error {
	if p.began.IsZero() { // The daemon has adopted the container, which was healthy before.
		p.began, p.healthy = time.Now(), true
	}
	for {
		if pause.For(ctx, p.cfg.interval) != nil {
			return ctx.Err()
		}
		err := p.once(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			p.failed = 0
			continue
		case errors.Is(err, errNotRun):
			continue
		}
		p.failed++
		if p.failed >= p.cfg.retries {
			return fmt.Errorf("unhealthy: %w", err)
		}
	}
}

// starting reports whether the container is in its start period: it has not been healthy yet, and
// the period has not passed. As in Docker, failures do not count in this period.
func (p *Prober) starting() bool { return !p.healthy && time.Since(p.began) < p.cfg.startPeriod }

// once runs the check, within its timeout.
func (p *Prober) once(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, p.cfg.timeout)
	defer cancel()
	err := p.check(cctx)
	if err != nil && cctx.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("health check took longer than %s", p.cfg.timeout)
	}
	return err
}
