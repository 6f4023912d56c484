package main

import (
	"context"
	"fmt"
	"time"

	"swarm/dev"
	"swarm/internal/pause"
)

// idleFor is how long nothing is asked of a cluster that is measured at rest.
const idleFor = 30 * time.Second

// idle: what a manager, a worker and the runtime beside it cost while nothing happens, and what 50 containers add.
func idle(ctx context.Context, e env) error {
	c, err := bring(ctx, e, dev.Options{Nodes: 2, Managers: 1}, e.archive)
	if err != nil {
		return err
	}
	defer c.down()
	used, err := rest(ctx, c.hosts[0])
	if err != nil {
		return err
	}
	var rss [2]float64
	var runtime float64
	for i, h := range c.hosts {
		all, err := processes(h)
		if err != nil {
			return err
		}
		if rss[i], err = memory(all, "Rss", daemonProcess); err != nil {
			return err
		}
		one, err := memory(all, "Rss", runtimeProcess)
		if err != nil {
			return err
		}
		runtime = max(runtime, one)
	}
	figure("manager_rss_mb", rss[0], "MB", "RSS of the daemon at rest; Docker Swarm's dockerd 111; goal 70")
	figure("worker_rss_mb", rss[1], "MB", "the same on a worker; dockerd 88; goal 45")
	figure("runtime_rss_mb", runtime, "MB", "the larger of the two runtimes; containerd beside dockerd 39; goal 40")
	figure("manager_cpu_s", used.Seconds(), "s", "manager and its runtime, in 30 s without work; dockerd 0.16; goal 0.15")
	return fifty(ctx, c)
}

// rest waits until nothing has happened for a while, and gives the processor time that this took.
func rest(ctx context.Context, h dev.Host) (time.Duration, error) {
	if err := pause.For(ctx, 25*time.Second); err != nil { // what the start, the joins and the load have begun comes to its end
		return 0, err
	}
	all, err := processes(h)
	if err != nil {
		return 0, err
	}
	before, err := cpu(all)
	if err != nil {
		return 0, err
	}
	if err := pause.For(ctx, idleFor); err != nil {
		return 0, err
	}
	after, err := cpu(all)
	return after - before, err
}

// fifty measures what 50 containers on the worker add: their shims, and by how much the daemon and the runtime grow.
func fifty(ctx context.Context, c *cluster) error {
	const n = 50
	worker := c.hosts[1]
	measure := func() (daemons, shims float64, err error) {
		all, err := processes(worker)
		if err != nil {
			return 0, 0, err
		}
		if daemons, err = memory(all, "Pss", daemonProcess, runtimeProcess); err != nil {
			return 0, 0, err
		}
		shims, err = memory(all, "Pss", shimProcess)
		return daemons, shims, err
	}
	before, _, err := measure()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := watch(ctx, c.control)
	if err != nil {
		return err
	}
	spec := service("fifty", n)
	spec.TaskTemplate.Placement = on("worker")
	if err := create(ctx, c.control, w, spec, n); err != nil {
		return err
	}
	if err := pause.For(ctx, idleFor); err != nil {
		return err
	}
	after, shims, err := measure()
	if err != nil {
		return err
	}
	// A daemon that has shrunk meanwhile gives the containers nothing back.
	figure("container_pss_mb", (shims+max(0, after-before))/n, "MB", fmt.Sprintf(
		"PSS at 50 containers: shims %.1f MB, daemon and runtime %.1f MB more than without; Docker's shims alone 2.6 each; goal 1", shims, after-before))
	return nil
}
