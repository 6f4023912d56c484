package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"strings"
	"time"
)

// readyAfterNetwork bounds the time from the start of a rebooted host's network until the host is
// ready, on processors that are not emulated.
const readyAfterNetwork = 10 * time.Second

// comeback has the durations of a reboot.
type comeback struct {
	moved time.Duration // until the host's tasks ran elsewhere
	ready time.Duration // from the start of the host's network until the host was ready
	real  time.Duration // the same, computed for processors that are not emulated
}

// rebootEach reboots the guests one after the other, as an operator does.
func rebootEach(ctx context.Context, l *lab) (string, error) {
	var worst comeback
	for _, g := range l.guests {
		c, err := l.reboot(ctx, g)
		if err != nil {
			return "", fmt.Errorf("reboot of %s: %w", g.name, err)
		}
		worst = comeback{max(worst.moved, c.moved), max(worst.ready, c.ready), max(worst.real, c.real)}
	}
	return fmt.Sprintf("tasks ran elsewhere after at most %.1f s, and had got their stop signal; each ready again at most %.1f s after its network, which is %.1f s without emulation",
		worst.moved.Seconds(), worst.ready.Seconds(), worst.real.Seconds()), nil
}

// reboot reboots a guest.
func (l *lab) reboot(ctx context.Context, g *guest) (comeback, error) {
	var c comeback
	at := l.others(g)[0]
	before := g.link.bootID()
	signalled, err := stopSignals(ctx, at, g)
	if err != nil {
		return c, err
	}
	began := time.Now()
	if _, err := g.link.run(ctx, "systemctl", "reboot"); err != nil && !errors.Is(err, errRebooted) {
		return c, err
	}
	if _, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return elsewhere(ctx, at, g) }); err != nil {
		return c, err
	}
	c.moved = time.Since(began)
	log.Printf("%s goes down: its tasks run elsewhere after %.1f s", g.name, c.moved.Seconds())
	if _, err := g.link.awaitBoot(ctx, before); err != nil {
		return c, err
	}
	log.Printf("%s is up after %.1f s", g.name, time.Since(began).Seconds())
	if c.ready, c.real, err = l.awaitReady(ctx, at, g); err != nil {
		return c, err
	}
	if err := l.settledAgain(ctx, at, g); err != nil {
		return c, err
	}
	now, err := stopSignals(ctx, at, g)
	if err == nil && now <= signalled {
		err = fmt.Errorf("no task of %s has logged its stop signal", g.name)
	}
	return c, err
}

// awaitReady returns the time from the start of a guest's network until the guest was ready, as
// measured and as computed without emulation.
func (l *lab) awaitReady(ctx context.Context, at, g *guest) (ready, real time.Duration, err error) {
	if _, err := eventually(ctx, 4*time.Minute, func(ctx context.Context) error { return l.ready(ctx, at, l.guests...) }); err != nil {
		return 0, 0, err
	}
	if ready, err = g.sinceNetwork(ctx, time.Now()); err != nil {
		return 0, 0, err
	}
	slower, err := l.slower(ctx, g)
	if err != nil {
		return 0, 0, err
	}
	real = time.Duration(float64(ready) / slower)
	log.Printf("%s is ready %.1f s after its network; it is %.1f times slower than this machine, so that is %.1f s without emulation", g.name, ready.Seconds(), slower, real.Seconds())
	if real > readyAfterNetwork {
		err = fmt.Errorf("ready after %v, want at most %v", real, readyAfterNetwork)
	}
	return ready, real, err
}

// elsewhere returns an error unless every replica runs, and none on the host that goes down.
func elsewhere(ctx context.Context, at, down *guest) error {
	all, err := tasks(ctx, at, "spread")
	if err != nil {
		return err
	}
	running := 0
	for _, t := range all {
		if t.node == down.name {
			return fmt.Errorf("a task is still on %s: %s", t.node, t.state)
		}
		if strings.HasPrefix(t.state, "Running") {
			running++
		}
	}
	if running != spreadReplicas {
		return fmt.Errorf("%d replicas run, want %d: %v", running, spreadReplicas, all)
	}
	return nil
}

// settledAgain waits until no unit of the rebooted guest has failed and the guest runs its task of
// the global service.
func (l *lab) settledAgain(ctx context.Context, at, g *guest) error {
	if err := g.settled(ctx); err != nil {
		return err
	}
	_, err := eventually(ctx, time.Minute, func(ctx context.Context) error {
		all, err := tasks(ctx, at, "web")
		if err != nil {
			return err
		}
		for _, t := range all {
			if t.node == g.name && strings.HasPrefix(t.state, "Running") {
				return nil
			}
		}
		return fmt.Errorf("no task of web runs on %s: %v", g.name, all)
	})
	if err != nil {
		return err
	}
	if _, err = answers(ctx, l); err != nil {
		return err
	}
	_, err = l.connected(ctx)
	return err
}

// stopSignals counts the tasks on a node that have logged their stop signal.
func stopSignals(ctx context.Context, at, on *guest) (int, error) {
	out, err := at.sh(ctx, "swarm service logs spread 2>&1; swarm service logs web 2>&1")
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(out) {
		if strings.Contains(line, "@"+on.name+" ") && strings.Contains(line, "hello: got terminated") {
			n++
		}
	}
	return n, nil
}

// sinceNetwork returns the time from the start of the guest's network to then, which is now or a
// moment ago.
func (g *guest) sinceNetwork(ctx context.Context, then time.Time) (time.Duration, error) {
	began, err := g.run(ctx, "systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", "network-online.target")
	if err != nil {
		return 0, err
	}
	asked := time.Now()
	uptime, err := g.sh(ctx, "cut -d' ' -f1 /proc/uptime")
	if err != nil {
		return 0, err
	}
	us, err := strconv.ParseFloat(began, 64)
	if err != nil {
		return 0, err
	}
	up, err := strconv.ParseFloat(uptime, 64)
	if err != nil {
		return 0, err
	}
	// The guest read its clock between asked and now. The code takes the later of the two, which
	// gives the longer duration.
	return time.Duration((up-us/1e6)*float64(time.Second)) - asked.Sub(then), nil
}

// slower returns how many times longer a guest takes than this machine for the same program. It
// takes the best of a few runs.
func (l *lab) slower(ctx context.Context, g *guest) (float64, error) {
	best := func(run func() error) (time.Duration, error) {
		shortest := time.Hour
		for range 5 {
			began := time.Now()
			if err := run(); err != nil {
				return 0, err
			}
			shortest = min(shortest, time.Since(began))
		}
		return shortest, nil
	}
	there, err := best(func() error { _, err := g.run(ctx, "swarm", "daemon", "--help"); return err })
	if err != nil {
		return 0, err
	}
	here, err := best(func() error { return command(ctx, time.Minute, l.binary, "daemon", "--help") })
	return max(1, float64(there)/float64(here)), err
}
