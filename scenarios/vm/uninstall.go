package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// uninstall removes swarm from every guest. It uses --force, because the last guests have no
// cluster that they could leave in order.
func uninstall(ctx context.Context, l *lab) (string, error) {
	for _, service := range []string{"web", "spread", "front", "back"} {
		if _, err := l.guests[0].swarm(ctx, "service", "rm", service); err != nil {
			return "", err
		}
	}
	_, err := eventually(ctx, time.Minute, func(ctx context.Context) error {
		_, err := l.guests[0].swarm(ctx, "network", "rm", "lan") // It is refused while a task is on the network.
		return err
	})
	if err != nil {
		return "", err
	}
	for _, g := range slices.Backward(l.guests) {
		if _, err := g.swarm(ctx, "uninstall", "--purge", "--force"); err != nil {
			return "", err
		}
		if _, err := g.run(ctx, "rm", "/root/swarm"); err != nil {
			return "", err
		}
		now, err := takeInventory(ctx, g)
		if err != nil {
			return "", err
		}
		if changes := l.before[g.name].changes(now); len(changes) > 0 {
			return "", fmt.Errorf("%s is not as before:\n%s", g.name, strings.Join(changes, "\n"))
		}
		if err := g.settled(ctx); err != nil {
			return "", err
		}
	}
	return "files, units, nft rules, cgroups, mounts, interfaces, routes, sysctls and processes are as before", nil
}
