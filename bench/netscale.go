package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/dev"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	scaleServices = 1000
	scaleBackends = 10
)

// netScale: networks with many services. What they cost a host is measured on the data plane alone; what they cost a container's
// start, in a cluster, in which the services' tasks, one each, pretend to run on another node.
func netScale(ctx context.Context, e env) error {
	for _, measure := range []func(context.Context, env) error{connects, hostScale} {
		if err := measure(ctx, e); err != nil {
			return err
		}
	}
	c, err := bring(ctx, e, dev.Options{Nodes: 2, Managers: 1, Simulated: 1, DaemonArgs: journaled()}, e.archive)
	if err != nil {
		return err
	}
	defer c.down()
	s := &scaleBench{c: c, rounds: max(netRounds, e.rounds)}
	for _, step := range []func(context.Context) error{s.prepare, s.attach, s.grow, s.attach} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

type scaleBench struct {
	c       *cluster
	rounds  int
	network string
	journal *journal
	count   int // of services made so far
	// plain is what an attachment takes without all the services.
	plain time.Duration
}

func (s *scaleBench) prepare(ctx context.Context) error {
	info, err := s.c.control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
		Name: "scale", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.96.0.0/16"}}},
	}})
	if err != nil {
		return err
	}
	s.network = info.GetNetwork().GetId()
	if s.journal, err = newJournal(s.c.hosts[0]); err != nil {
		return err
	}
	return s.create(ctx, s.service("client", "manager", 1), 1)
}

// create makes a service and waits until its tasks run, with a watch that has not been told of any other.
func (s *scaleBench) create(ctx context.Context, spec *swarmv1.ServiceSpec, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := watch(ctx, s.c.control)
	if err != nil {
		return err
	}
	return create(ctx, s.c.control, w, spec, n)
}

func (s *scaleBench) service(name, role string, replicas uint64) *swarmv1.ServiceSpec {
	spec := service(name, replicas)
	spec.TaskTemplate.Placement = on(role)
	spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: s.network}}
	return spec
}

// attach measures how long a container takes to be connected.
func (s *scaleBench) attach(ctx context.Context) error {
	var took times
	for range 2 * s.rounds {
		s.count++
		name := fmt.Sprintf("attach%d", s.count)
		if _, err := s.journal.next("attached"); err != nil {
			return err
		}
		if err := s.create(ctx, s.service(name, "manager", 1), 1); err != nil {
			return err
		}
		entries, err := s.journal.next("attached")
		if err != nil {
			return err
		}
		if len(entries) != 1 {
			return fmt.Errorf("service %s: the daemon's journal tells of %d attachments", name, len(entries))
		}
		took = append(took, entries[0].Took)
		if _, err := s.c.control.RemoveService(ctx, &swarmv1.GetRequest{Id: name}); err != nil {
			return err
		}
	}
	if s.plain == 0 {
		s.plain = took.median()
		return nil
	}
	figure("attach_1000_ms", ms(took.median()), "ms", fmt.Sprintf(
		"a container is connected, in a cluster of %d services, all on its network, and %.1f in one of none; medians of %d", scaleServices, ms(s.plain), len(took)))
	return nil
}

// grow makes the services, and waits until all their tasks run.
func (s *scaleBench) grow(ctx context.Context) error {
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range scaleServices {
		g.Go(func() error {
			_, err := s.c.control.CreateService(gctx, &swarmv1.CreateServiceRequest{Spec: s.service(fmt.Sprintf("s%d", i), "worker", 1)})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for running := uint64(0); running < scaleServices; {
		if err := pause.For(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		all, err := s.c.control.ListServices(ctx, &swarmv1.ListRequest{})
		if err != nil {
			return err
		}
		running = 0
		for _, one := range all.GetServices() {
			if strings.HasPrefix(one.GetService().GetName(), "s") {
				running += one.GetStatus().GetRunningTasks()
			}
		}
	}
	figure("services_1000_s", time.Since(began).Seconds(), "s", fmt.Sprintf("%d services of one task made through the API, until all run, simulated", scaleServices))
	return nil
}
