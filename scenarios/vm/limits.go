package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"
)

// limit is one limit of each task of the global service, in swarm's flags and in cgroup v2.
type limit struct{ flag, value, file, want string }

var (
	limitsAtFirst = []limit{
		{"--limit-memory", "64M", "memory.max", "67108864"},
		{"--limit-cpu", "0.5", "cpu.max", "50000 100000"},
		{"--limit-pids", "50", "pids.max", "50"},
	}
	limitsThen = []limit{
		{"--limit-memory", "96M", "memory.max", "100663296"},
		{"--limit-cpu", "0.75", "cpu.max", "75000 100000"},
		{"--limit-pids", "60", "pids.max", "60"},
	}
)

// limited reads the limits of the global service in its containers' cgroups, and changes them
// there. The containers must not be restarted.
func limited(ctx context.Context, l *lab) (string, error) {
	before, err := l.limitedTo(ctx, limitsAtFirst)
	if err != nil {
		return "", err
	}
	update := []string{"service", "update"}
	for _, limit := range limitsThen {
		update = append(update, limit.flag, limit.value)
	}
	if _, err := l.guests[0].swarm(ctx, append(update, "web")...); err != nil {
		return "", err
	}
	var after map[string]string
	if _, err := eventually(ctx, time.Minute, func(ctx context.Context) (err error) {
		after, err = l.limitedTo(ctx, limitsThen)
		return err
	}); err != nil {
		return "", err
	}
	if !maps.Equal(before, after) {
		return "", fmt.Errorf("limits changed, and with them the containers: %v before, %v after", before, after)
	}
	return "memory.max, cpu.max and pids.max in swarm.slice, as created, and changed on the same containers", nil
}

// limitedTo finds the one container of each guest that has these limits, and returns its process
// and cgroup.
func (l *lab) limitedTo(ctx context.Context, limits []limit) (map[string]string, error) {
	read := "for p in /proc/[0-9]*; do if read -r c <$p/comm && [ \"$c\" = app ]; then g=$(cut -d: -f3 $p/cgroup); echo $p $g"
	var want string
	for _, limit := range limits {
		read += "'|'$(cat /sys/fs/cgroup$g/" + limit.file + ")"
		want += "|" + limit.want
	}
	read += "; fi; done"
	found := map[string]string{}
	for _, g := range l.guests {
		out, err := g.sh(ctx, read)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			container, isLimited := strings.CutSuffix(strings.TrimSpace(line), want)
			if !strings.Contains(container, " /swarm.slice/") {
				return nil, fmt.Errorf("%s: a container is not in swarm.slice: %s", g.name, line)
			}
			if isLimited {
				found[g.name] = container
			}
		}
		if found[g.name] == "" {
			return nil, fmt.Errorf("%s: no container with limits %s: %s", g.name, want, out)
		}
	}
	return found, nil
}
