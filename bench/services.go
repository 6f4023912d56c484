package main

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// services measures many services of one replica: how fast the API accepts them and how fast they
// all run.
func services(ctx context.Context, e testbed.Env) error {
	if err := thousandServices(ctx, e); err != nil {
		return err
	}
	if err := realService(ctx, e); err != nil {
		return err
	}
	return servicesOfDocker(ctx, e)
}

// thousandServices measures the control plane alone, with a runtime that does nothing, and a list
// of all services.
func thousandServices(ctx context.Context, e testbed.Env) error {
	const n, writers = 1000, 16
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 3, Managers: 3, DaemonArgs: []string{"--simulated"}})
	if err != nil {
		return err
	}
	defer c.Down()
	var accept, run figure.Times
	for round := range e.Rounds {
		if round > 0 {
			if err := removeServices(ctx, c, n, writers); err != nil {
				return err
			}
		}
		accepted, running, err := createServices(ctx, c, n, writers)
		if err != nil {
			return err
		}
		accept, run = append(accept, accepted), append(run, running)
	}
	var list, version figure.Times
	for range 2*e.Rounds + 1 {
		for args, times := range map[string]*figure.Times{"ls": &list, "version": &version} {
			cmd := exec.CommandContext(ctx, e.Binary, map[string][]string{"ls": {"service", "ls"}, "version": {"version"}}[args]...)
			cmd.Env = append(cmd.Environ(), "SWARM_HOST=unix://"+c.Nodes[0].Socket)
			began := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("swarm %s: %w: %s", args, err, out)
			}
			*times = append(*times, time.Since(began))
		}
	}
	figure.Print("services_1000_s", run.Median().Seconds(), "s", fmt.Sprintf(
		"%d services of one replica from %d callers, to all running, 3 managers, fsync, TLS, simulated runtime: %s s; accepted after %s s; goal 3", n, writers, run.Seconds(), accept.Seconds()))
	figure.Print("ls1000_ms", figure.Millis(list.Median()), "ms", "the process `swarm service ls` with 1,000 services")
	figure.Print("ls1000_vs_version", figure.TimesRatio(list, version), "x", fmt.Sprintf("to the process `swarm version`, %.1f ms, in pairs; goal 2", figure.Millis(version.Median())))
	return nil
}

// createServices makes services of one replica. It returns the time until all are accepted and the
// time until all run.
func createServices(ctx context.Context, c *testbed.Cluster, n, writers int) (accepted, running time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var g errgroup.Group
	g.Go(func() error {
		err := forEach(n, writers, func(i int) error {
			_, err := c.Control.CreateService(ctx, &swarmv1.CreateServiceRequest{Spec: testbed.Service(serviceName(i), 1)})
			return err
		})
		accepted = time.Since(began)
		if err != nil {
			cancel()
		}
		return err
	})
	waitErr := w.Until(testbed.Running(n))
	running = time.Since(began)
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	return accepted, running, waitErr
}

func removeServices(ctx context.Context, c *testbed.Cluster, n, writers int) error {
	if err := forEach(n, writers, func(i int) error {
		_, err := c.Control.RemoveService(ctx, &swarmv1.GetRequest{Id: serviceName(i)})
		return err
	}); err != nil {
		return err
	}
	return testbed.Poll(ctx, "the services to be removed", func() bool {
		left, err := c.Control.ListServices(ctx, &swarmv1.ListRequest{})
		return err == nil && len(left.GetServices()) == 0
	})
}

func serviceName(i int) string { return fmt.Sprintf("many%d", i) }

// forEach calls do for 0 to n-1, at most atOnce at a time.
func forEach(n, atOnce int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}

// realService measures a service of one replica, from the call until its container runs, against a
// container that is made with the same containerd alone, in turns.
func realService(ctx context.Context, e testbed.Env) error {
	const samples = 30
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 3, Managers: 3}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	bare, err := peer.NewRuntime(ctx, c.Nodes[0], e)
	if err != nil {
		return err
	}
	defer bare.Close()
	var ours, theirs figure.Times
	for i := range samples + 3 {
		spec := testbed.Service(fmt.Sprintf("real%d", i), 1)
		spec.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname==" + c.Nodes[0].Name}} // The node of the bare containers, which has the image.
		made, _, err := testbed.CreateAndRemove(ctx, c.Control, spec, 1, bare.Gone)
		if err != nil {
			return err
		}
		bareMade, _, err := bare.CreateAndRemove(1, 1, syscall.SIGKILL)
		if err != nil {
			return fmt.Errorf("bare container: %w", err)
		}
		if i >= 3 { // The first calls open connections and start shims.
			ours, theirs = append(ours, made), append(theirs, bareMade)
		}
	}
	figure.Print("create_running_real_p50_ms", figure.Millis(ours.Median()), "ms", fmt.Sprintf("%d services of one replica, 3 managers, a real container", samples))
	figure.Print("create_running_real_p50_ratio", ours.Median().Seconds()/theirs.Median().Seconds(), "x", fmt.Sprintf(
		"to create and start of a bare container, %.1f ms, same containerd, in turns; goal 1.5", figure.Millis(theirs.Median())))
	return nil
}

// servicesOfDocker measures 200 services with real containers, of swarm, of Docker and of bare
// containerd in turn. All three are up all the time.
func servicesOfDocker(ctx context.Context, e testbed.Env) error {
	const nodes, n = 3, 200
	docker, err := peer.NewDocker(ctx, e, nodes, nodes)
	if err != nil {
		return err
	}
	defer docker.Close()
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: nodes, Managers: nodes}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	bare, err := peer.NewRuntime(ctx, c.Nodes[0], e)
	if err != nil {
		return err
	}
	defer bare.Close()
	var accept, run, theirAccept, theirRun, bareRun figure.Times
	for i := range e.Rounds + 1 {
		accepted, running, err := createServices(ctx, c, n, 1)
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		if err := removeServices(ctx, c, n, 1); err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		theirAccepted, theirRunning, err := docker.CreateServices(ctx, n, serviceName)
		if err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		if err := docker.RemoveServices(ctx, n, serviceName); err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		bareRunning, _, err := bare.CreateAndRemove(n, 4, syscall.SIGKILL)
		if err != nil {
			return fmt.Errorf("bare containers: %w", err)
		}
		if i == 0 {
			continue // The first round spreads images and opens connections.
		}
		accept, run, bareRun = append(accept, accepted), append(run, running), append(bareRun, bareRunning)
		theirAccept, theirRun = append(theirAccept, theirAccepted), append(theirRun, theirRunning)
	}
	figure.Print("accept200_vs_docker", figure.TimesRatio(accept, theirAccept), "x", fmt.Sprintf(
		"%d services of one replica, one call after another, 3 managers: %s s of %s s; goal 0.1", n, accept.Seconds(), theirAccept.Seconds()))
	figure.Print("running200_vs_docker", figure.TimesRatio(run, theirRun), "x", fmt.Sprintf(
		"the same to all running: %s s of %s s; goal 0.33", run.Seconds(), theirRun.Seconds()))
	figure.Print("running200_vs_bare", figure.TimesRatio(run, bareRun), "x", fmt.Sprintf(
		"to 200 bare containers, 4 at once: %s s; goal 1.3, if that is easier", bareRun.Seconds()))
	return nil
}
