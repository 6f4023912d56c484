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

// readyAfterNetwork is how soon after its network a rebooted host takes part again.
const readyAfterNetwork = 10 * time.Second

// rebootEach reboots one guest after the other, as its operator would.
func rebootEach(ctx context.Context, l *lab) (string, error) {
	var moved, ready time.Duration
	for _, g := range l.guests {
		m, r, err := l.reboot(ctx, g)
		if err != nil {
			return "", fmt.Errorf("reboot of %s: %w", g.name, err)
		}
		moved, ready = max(moved, m), max(ready, r)
	}
	return fmt.Sprintf("tasks ran elsewhere after at most %.1f s, and had got their stop signal; each ready again at most %.1f s after its network", moved.Seconds(), ready.Seconds()), nil
}

// reboot returns how long it took until the guest's tasks ran elsewhere, and from its network to its being ready.
func (l *lab) reboot(ctx context.Context, g *guest) (moved, ready time.Duration, err error) {
	at := l.others(g)[0]
	before := g.link.bootID()
	signalled, err := stopSignals(ctx, at, g)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if _, err := g.link.run(ctx, "systemctl", "reboot"); err != nil && !errors.Is(err, errRebooted) {
		return 0, 0, err
	}
	if _, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return elsewhere(ctx, at, g) }); err != nil {
		return 0, 0, err
	}
	moved = time.Since(began)
	log.Printf("%s goes down: its tasks run elsewhere after %.1f s", g.name, moved.Seconds())
	if _, err := g.link.awaitBoot(ctx, before); err != nil {
		return 0, 0, err
	}
	log.Printf("%s is up after %.1f s", g.name, time.Since(began).Seconds())
	if _, err := eventually(ctx, 2*time.Minute, func(ctx context.Context) error { return l.ready(ctx, at, l.guests...) }); err != nil {
		return 0, 0, err
	}
	if ready, err = g.sinceNetwork(ctx, time.Now()); err != nil {
		return 0, 0, err
	}
	log.Printf("%s is ready %.1f s after its network", g.name, ready.Seconds())
	if ready > readyAfterNetwork {
		return 0, 0, fmt.Errorf("ready %v after its network, want at most %v", ready, readyAfterNetwork)
	}
	if err := l.settledAgain(ctx, at, g); err != nil {
		return 0, 0, err
	}
	now, err := stopSignals(ctx, at, g)
	if err == nil && now <= signalled {
		err = fmt.Errorf("no task of %s has logged its stop signal", g.name)
	}
	return moved, ready, err
}

// elsewhere tells whether every replica runs, and none where the host goes down.
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

// settledAgain waits until the rebooted guest has nothing failed and runs its task of the global service.
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

// stopSignals counts the tasks that said on a node that they were told to end.
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

// sinceNetwork is how long before that time, which is now or a moment ago, the guest's network was begun to be set up.
func (g *guest) sinceNetwork(ctx context.Context, then time.Time) (time.Duration, error) {
	began, err := g.run(ctx, "systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", "systemd-networkd")
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
	// The guest read its clock between asked and now: the later of both counts against us the most.
	return time.Duration((up-us/1e6)*float64(time.Second)) - asked.Sub(then), nil
}
