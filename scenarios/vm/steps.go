package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"swarm/scenarios/probe"
)

// steps returns the steps of a run, in order.
func steps() []step {
	return []step{
		{"Debian boots", 8 * time.Minute, boot},
		{"one file is installed", time.Minute, install},
		{"init", 3 * time.Minute, initialize},
		{"join", 8 * time.Minute, join},
		{"service", 8 * time.Minute, createServices},
		{"every guest answers", time.Minute, answers},
		{"limits", time.Minute, limited},
		{"overlay", 6 * time.Minute, overlay},
		{"overlay on a bad line", 6 * time.Minute, badLine},
		{"systemctl restart", 5 * time.Minute, restart},
		{"upgrade", 8 * time.Minute, upgrade},
		{"reboot", 25 * time.Minute, rebootEach},
		{"uninstall", 6 * time.Minute, uninstall},
	}
}

const (
	// webPort is published on every host.
	webPort = 8080
	// spreadReplicas is the number of tasks that may run on any guest.
	spreadReplicas = 3
	// heartbeat is the heartbeat period of the cluster. A restart takes long on emulated
	// processors, and with a shorter period the node would count as lost.
	heartbeat = "10s"
	// settings are the daemon's, in the file that an administrator edits. They have the same
	// reason.
	settings = "SWARM_DAEMON_ARGS=--raft-timeout=3s"
)

func boot(ctx context.Context, l *lab) (string, error) {
	err := l.each(func(g *guest) error {
		if err := g.settled(ctx); err != nil {
			return err
		}
		if _, err := g.sh(ctx, "echo '"+settings+"' >/etc/default/swarm"); err != nil {
			return err
		}
		inv, err := takeInventory(ctx, g)
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.before[g.name] = inv
		return nil
	})
	if err != nil {
		return "", err
	}
	kernel, err := l.guests[0].run(ctx, "uname", "-r")
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(kernel, "6.1.") {
		return "", fmt.Errorf("kernel %s, want Debian's 6.1", kernel)
	}
	cgroup, err := l.guests[0].run(ctx, "stat", "-f", "-c", "%T", "/sys/fs/cgroup")
	if err != nil {
		return "", err
	}
	if cgroup != "cgroup2fs" {
		return "", fmt.Errorf("/sys/fs/cgroup is %s, want cgroup2fs", cgroup)
	}
	systemd, err := l.guests[0].sh(ctx, "systemctl --version | head -1")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d guests, kernel %s, %s, cgroup v2", len(l.guests), kernel, systemd), nil
}

func install(ctx context.Context, l *lab) (string, error) {
	err := l.each(func(g *guest) error {
		_, err := g.run(ctx, "cp", "/cargo/swarm", "/root/swarm")
		return err
	})
	if err != nil {
		return "", err
	}
	return l.guests[0].build(ctx, "/root/swarm")
}

// build returns the build that a program reports. The command fails to find a daemon, which does
// not matter.
func (g *guest) build(ctx context.Context, program string) (string, error) {
	return g.sh(ctx, program+" -H unix:///nonexistent version --format '{{.Client.Version}} {{.Client.Build}}' 2>/dev/null || true")
}

func initialize(ctx context.Context, l *lab) (string, error) {
	began := time.Now()
	if _, err := l.guests[0].run(ctx, "/root/swarm", "init", "--dispatcher-heartbeat", heartbeat); err != nil {
		return "", err
	}
	took := time.Since(began)
	if err := l.ready(ctx, l.guests[0], l.guests[:1]...); err != nil {
		return "", err
	}
	return fmt.Sprintf("answers after %.1f s", took.Seconds()), nil
}

func join(ctx context.Context, l *lab) (string, error) {
	token, err := l.guests[0].swarm(ctx, "join-token", "-q", "manager")
	if err != nil {
		return "", err
	}
	for _, g := range l.guests[1:] {
		if _, err := g.run(ctx, "/root/swarm", "join", "--token", token, l.guests[0].address); err != nil {
			return "", err
		}
	}
	if _, err := eventually(ctx, time.Minute, func(ctx context.Context) error { return l.ready(ctx, l.guests[1], l.guests...) }); err != nil {
		return "", err
	}
	for _, g := range l.guests {
		if _, err := g.sh(ctx, "systemctl is-enabled -q swarm && systemctl is-active -q swarm && test -x /usr/local/bin/swarm"); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d managers ready, swarm.service enabled and active", len(l.guests)), nil
}

// ready returns an error unless the nodes are ready, and managers reachable, in the list on one of
// them.
func (l *lab) ready(ctx context.Context, at *guest, nodes ...*guest) error {
	out, err := at.swarm(ctx, "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if !strings.Contains(out, n.name+" Ready Leader") && !strings.Contains(out, n.name+" Ready Reachable") {
			return fmt.Errorf("%s is not a ready manager: %s", n.name, strings.ReplaceAll(out, "\n", ", "))
		}
	}
	return nil
}

func createServices(ctx context.Context, l *lab) (string, error) {
	g := l.guests[0]
	if _, err := g.swarm(ctx, "image", "load", "-i", "/cargo/hello.tar"); err != nil {
		return "", err
	}
	web := []string{"service", "create", "--name", "web", "--mode", "global", "--publish", fmt.Sprintf("mode=host,published=%d,target=8080", webPort)}
	for _, limit := range limitsAtFirst {
		web = append(web, limit.flag, limit.value)
	}
	began := time.Now()
	if _, err := g.swarm(ctx, append(web, "swarm/hello:1")...); err != nil {
		return "", err
	}
	spread := []string{"service", "create", "--name", "spread", "--replicas", fmt.Sprint(spreadReplicas), "--publish", "mode=host,target=8080", "swarm/hello:1"}
	if _, err := g.swarm(ctx, spread...); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d tasks running after %.1f s", len(l.guests)+spreadReplicas, time.Since(began).Seconds()), nil
}

func answers(ctx context.Context, l *lab) (string, error) {
	client := probe.New()
	defer client.Close()
	for _, g := range l.guests {
		text, err := client.Get(fmt.Sprintf("http://%s:%d/", g.address, webPort))
		if err != nil {
			return "", err
		}
		if !strings.HasPrefix(text, "hello from ") {
			return "", fmt.Errorf("%s answers %q", g.name, text)
		}
	}
	return fmt.Sprintf("on port %d", webPort), nil
}
