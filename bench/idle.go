package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/internal/pause"
)

// idleFor is the time during which an idle cluster is measured.
const idleFor = 30 * time.Second

// idle measures what a manager, a worker and their runtimes cost while nothing happens, against a
// manager of Docker that is idle at the same time, and what 50 containers add.
func idle(ctx context.Context, e testbed.Env) error {
	docker, err := peer.NewDocker(ctx, e, 1, 1)
	if err != nil {
		return err
	}
	defer docker.Close()
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 2, Managers: 1}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	manager, err := testbed.Processes(c.Nodes[0])
	if err != nil {
		return err
	}
	worker, err := testbed.Processes(c.Nodes[1])
	if err != nil {
		return err
	}
	dockerd, err := docker.Processes(docker.Hosts[0])
	if err != nil {
		return err
	}
	ours, dockers, err := rest(ctx, manager, dockerd)
	if err != nil {
		return err
	}
	managerPSS, err := testbed.Memory(manager, "Pss", testbed.Daemon)
	if err != nil {
		return err
	}
	workerPSS, err := testbed.Memory(worker, "Pss", testbed.Daemon)
	if err != nil {
		return err
	}
	runtimePSS, err := testbed.Memory(slices.Concat(manager, worker), "Pss", testbed.Runtime)
	if err != nil {
		return err
	}
	figure.Print("manager_pss_mb", managerPSS, "MB", "PSS of the daemon at rest, of two daemons on this machine; goal 40")
	figure.Print("worker_pss_mb", workerPSS, "MB", "the same on a worker; goal 25")
	figure.Print("runtime_pss_mb", runtimePSS/2, "MB", "mean of the two runtimes")
	figure.Print("manager_cpu_vs_docker", ours.Seconds()/dockers.Seconds(), "x", fmt.Sprintf(
		"processor time of a manager and its runtime in %v without work, to that of an idle dockerd in Swarm mode and its containerd at the same time: %.2f and %.2f s; goal 1",
		idleFor, ours.Seconds(), dockers.Seconds()))
	return fifty(ctx, c)
}

// rest waits until the work of the start is over, and returns the processor time that two sets of
// processes use during idleFor after it.
func rest(ctx context.Context, a, b []testbed.Process) (ofA, ofB time.Duration, err error) {
	if err := pause.For(ctx, 25*time.Second); err != nil {
		return 0, 0, err
	}
	var used [2][2]time.Duration
	for i := range used {
		if i > 0 {
			if err := pause.For(ctx, idleFor); err != nil {
				return 0, 0, err
			}
		}
		if used[i][0], err = testbed.CPUTime(a); err != nil {
			return 0, 0, err
		}
		if used[i][1], err = testbed.CPUTime(b); err != nil {
			return 0, 0, err
		}
	}
	return used[1][0] - used[0][0], used[1][1] - used[0][1], nil
}

// fifty measures what 50 containers on the worker add: their shims, and by how much the daemon and
// the runtime grow.
func fifty(ctx context.Context, c *testbed.Cluster) error {
	const n = 50
	worker := c.Nodes[1]
	measure := func() (daemons, shims float64, err error) {
		all, err := testbed.Processes(worker)
		if err != nil {
			return 0, 0, err
		}
		if daemons, err = testbed.Memory(all, "Pss", testbed.Daemon, testbed.Runtime); err != nil {
			return 0, 0, err
		}
		shims, err = testbed.Memory(all, "Pss", testbed.Shim)
		return daemons, shims, err
	}
	before, _, err := measure()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return err
	}
	spec := testbed.Service("fifty", n)
	spec.TaskTemplate.Placement = testbed.OnRole("worker")
	if err := testbed.Create(ctx, c.Control, w, spec, n); err != nil {
		return err
	}
	if err := pause.For(ctx, idleFor); err != nil {
		return err
	}
	after, shims, err := measure()
	if err != nil {
		return err
	}
	// A daemon may have shrunk meanwhile. That is not subtracted from the containers' figure.
	figure.Print("container_pss_mb", (shims+max(0, after-before))/n, "MB", fmt.Sprintf(
		"PSS at 50 containers: shims %.1f MB, daemon and runtime %.1f MB more than without; Docker's shims alone 2.6 each; goal 1", shims, after-before))
	return nil
}
