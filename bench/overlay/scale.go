package overlay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	scaleServices = 1000
	scaleBackends = 10
)

// Scale measures networks with many services. What the services cost a host is measured on the data
// plane alone. What they cost the start of a container is measured in a cluster in which the tasks
// of the services, one each, are simulated on another node.
func Scale(ctx context.Context, e testbed.Env) error {
	for _, measure := range []func(context.Context, testbed.Env) error{connects, hostScale} {
		if err := measure(ctx, e); err != nil {
			return err
		}
	}
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 2, Managers: 1, Simulated: 1, DaemonArgs: testbed.JournalArgs()}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	s := &scaleBench{c: c, rounds: max(netRounds, e.Rounds)}
	for _, step := range []func(context.Context) error{s.prepare, s.attach, s.grow, s.attach} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

type scaleBench struct {
	c       *testbed.Cluster
	rounds  int
	network string
	journal *testbed.Journal
	count   int // of services made so far
	// plain is the time of an attachment without the thousand services.
	plain time.Duration
}

func (s *scaleBench) prepare(ctx context.Context) error {
	info, err := s.c.Control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
		Name: "scale", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.96.0.0/16"}}},
	}})
	if err != nil {
		return err
	}
	s.network = info.GetNetwork().GetId()
	if s.journal, err = testbed.OpenJournal(s.c.Nodes[0]); err != nil {
		return err
	}
	return s.create(ctx, s.service("client", "manager", 1), 1)
}

// create makes a service and waits until its tasks run. Its watch is new, so that it counts no
// other tasks.
func (s *scaleBench) create(ctx context.Context, spec *swarmv1.ServiceSpec, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	w, err := testbed.Watch(ctx, s.c.Control)
	if err != nil {
		return err
	}
	return testbed.Create(ctx, s.c.Control, w, spec, n)
}

func (s *scaleBench) service(name, role string, replicas uint64) *swarmv1.ServiceSpec {
	spec := testbed.Service(name, replicas)
	spec.TaskTemplate.Placement = testbed.OnRole(role)
	spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: s.network}}
	return spec
}

// attach measures how long it takes to attach a container to the network.
func (s *scaleBench) attach(ctx context.Context) error {
	var took figure.Times
	for range 2 * s.rounds {
		s.count++
		name := fmt.Sprintf("attach%d", s.count)
		if _, err := s.journal.Next("connected a task to its networks"); err != nil {
			return err
		}
		if err := s.create(ctx, s.service(name, "manager", 1), 1); err != nil {
			return err
		}
		entries, err := s.journal.Next("connected a task to its networks")
		if err != nil {
			return err
		}
		if len(entries) != 1 {
			return fmt.Errorf("service %s: the daemon's journal has %d attachments", name, len(entries))
		}
		took = append(took, entries[0].Took)
		if _, err := s.c.Control.RemoveService(ctx, &swarmv1.GetRequest{Id: name}); err != nil {
			return err
		}
	}
	if s.plain == 0 {
		s.plain = took.Median()
		return nil
	}
	figure.Print("attach_1000_ms", figure.Millis(took.Median()), "ms", fmt.Sprintf(
		"a container is connected, in a cluster of %d services, all on its network, and %.1f in one of none; medians of %d", scaleServices, figure.Millis(s.plain), len(took)))
	return nil
}

// grow makes the services, and waits until all their tasks run.
func (s *scaleBench) grow(ctx context.Context) error {
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range scaleServices {
		g.Go(func() error {
			_, err := s.c.Control.CreateService(gctx, &swarmv1.CreateServiceRequest{Spec: s.service(fmt.Sprintf("s%d", i), "worker", 1)})
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
		all, err := s.c.Control.ListServices(ctx, &swarmv1.ListRequest{})
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
	figure.Print("services_1000_s", time.Since(began).Seconds(), "s", fmt.Sprintf("%d services of one task made through the API, until all run, simulated", scaleServices))
	return nil
}
