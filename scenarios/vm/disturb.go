package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"swarm/scenarios/probe"
)

// probeEvery is long enough that the probes leave the emulated processors to the programs under
// test.
const probeEvery = 500 * time.Millisecond

// restart restarts the daemon with systemd, which must not restart any container.
func restart(ctx context.Context, l *lab) (string, error) {
	var slowest time.Duration
	load, err := l.undisturbed(ctx, func(ctx context.Context) error {
		for _, g := range l.guests {
			if _, err := g.run(ctx, "systemctl", "restart", "swarm"); err != nil {
				return err
			}
			back, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return l.ready(ctx, g, l.guests...) })
			if err != nil {
				return err
			}
			slowest = max(slowest, back)
		}
		return nil
	})
	return fmt.Sprintf("of each: %s; the cluster in order again after at most %.1f s", load, slowest.Seconds()), err
}

// upgrade installs another build of the daemon and of the runtime.
func upgrade(ctx context.Context, l *lab) (string, error) {
	want, err := l.guests[0].build(ctx, "/cargo/next")
	if err != nil {
		return "", err
	}
	load, err := l.undisturbed(ctx, func(ctx context.Context) error {
		for _, g := range l.guests {
			if _, err := g.swarm(ctx, "upgrade", "/cargo/next"); err != nil {
				return err
			}
			if _, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return l.upgraded(ctx, g, want) }); err != nil {
				return err
			}
		}
		return nil
	})
	return fmt.Sprintf("of each to %s: %s", want, load), err
}

func (l *lab) upgraded(ctx context.Context, g *guest, build string) error {
	got, err := g.swarm(ctx, "node", "inspect", "--format", "{{.Description.Engine.Build}}", "self")
	if err != nil {
		return err
	}
	if !strings.HasSuffix(build, " "+got) {
		return fmt.Errorf("%s runs build %s, want %s", g.name, got, build)
	}
	runtime, err := g.sh(ctx, `for p in /proc/[0-9]*; do case "$(tr '\0' ' ' <$p/cmdline)" in *'swarm runtime '*) readlink $p/exe;; esac; done 2>/dev/null`)
	if err != nil {
		return err
	}
	if !strings.Contains(runtime, "/"+got+"/") {
		return fmt.Errorf("%s's runtime is %q, want it of build %s", g.name, runtime, got)
	}
	state, err := g.run(ctx, "systemctl", "show", "--property=ActiveState,NRestarts", "--value", "swarm")
	if err != nil {
		return err
	}
	if state := strings.Fields(state); !slices.Equal(state, []string{"0", "active"}) && !slices.Equal(state, []string{"active", "0"}) {
		return fmt.Errorf("%s: systemd shows swarm as %v, want it active and never restarted for a failure", g.name, state)
	}
	return l.ready(ctx, g, l.guests...)
}

// undisturbed calls f while probes request pages of every container. No request may fail, and the
// same processes must run afterwards.
func (l *lab) undisturbed(ctx context.Context, f func(context.Context) error) (string, error) {
	before, err := l.containers(ctx)
	if err != nil {
		return "", err
	}
	endpoints, err := l.endpoints(ctx, l.guests[0])
	if err != nil {
		return "", err
	}
	load := probe.Start(endpoints, probeEvery)
	defer load.Stop()
	if err := f(ctx); err != nil {
		return "", err
	}
	requests, failures := load.Stop()
	if len(failures) > 0 {
		return "", fmt.Errorf("%d of %d requests failed, the first: %w", len(failures), requests, failures[0])
	}
	after, err := l.containers(ctx)
	if err != nil {
		return "", err
	}
	if !slices.Equal(before, after) {
		return "", fmt.Errorf("containers changed: there were %v, there are %v", before, after)
	}
	return fmt.Sprintf("%d containers went on, %d requests, 0 failed", len(after), requests), nil
}

// containers lists the processes of the test image by guest, process id and start time.
func (l *lab) containers(ctx context.Context) ([]string, error) {
	var all []string
	for _, g := range l.guests {
		out, err := g.sh(ctx, `for p in /proc/[0-9]*; do if read -r c <$p/comm && [ "$c" = app ]; then cut -d' ' -f1,22 $p/stat; fi; done 2>/dev/null`)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			all = append(all, g.name+" "+strings.TrimSpace(line))
		}
	}
	slices.Sort(all)
	return all, nil
}

// task is a row of `service ps`.
type task struct{ id, node, state, ports string }

// tasks returns the tasks of a service whose desired state is running.
func tasks(ctx context.Context, at *guest, service string) ([]task, error) {
	out, err := at.swarm(ctx, "service", "ps", "--filter", "desired-state=running", "--no-trunc", "--format", "{{.ID}}|{{.Node}}|{{.CurrentState}}|{{.Ports}}", service)
	if err != nil {
		return nil, err
	}
	var all []task
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 {
			return nil, fmt.Errorf("service ps says %q", line)
		}
		all = append(all, task{f[0], f[1], f[2], f[3]})
	}
	return all, nil
}

// publishedPort matches a published port in a list, such as *:30001->8080/tcp.
var publishedPort = regexp.MustCompile(`:(\d+)->`)

// endpoints returns the base addresses of all published HTTP servers.
func (l *lab) endpoints(ctx context.Context, at *guest) ([]string, error) {
	var all []string
	for _, g := range l.guests {
		all = append(all, "http://"+g.address+":"+strconv.Itoa(webPort))
	}
	spread, err := tasks(ctx, at, "spread")
	if err != nil {
		return nil, err
	}
	for _, t := range spread {
		url, err := l.endpoint(t)
		if err != nil {
			return nil, err
		}
		all = append(all, url)
	}
	return all, nil
}

// endpoint returns the base address of a task that its node publishes.
func (l *lab) endpoint(t task) (string, error) {
	port := publishedPort.FindStringSubmatch(t.ports)
	for _, g := range l.guests {
		if g.name == t.node && port != nil {
			return "http://" + g.address + ":" + port[1], nil
		}
	}
	return "", fmt.Errorf("a task on %q publishes no port: %q", t.node, t.ports)
}
