package main

import (
	"context"
	"fmt"
	"time"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// rolledReplicas is the number of replicas of the service that is updated.
const rolledReplicas = 20

// rolling measures a rolling update of a service with an overlay network on five hosts against the
// same stops and starts of bare containers, in turns.
func rolling(ctx context.Context, e testbed.Env) error {
	r, err := newRolled(ctx, e)
	if err != nil {
		return err
	}
	defer r.Down()
	bare, err := peer.NewRuntime(ctx, r.Nodes[0], e)
	if err != nil {
		return err
	}
	defer bare.Close()
	return compareRolling(ctx, e, r, "bare", "the same stops and starts of bare containers", "1.3", func(parallelism int) (time.Duration, error) {
		return bare.Replace(rolledReplicas, parallelism)
	})
}

// rollingDocker is rolling against a cluster of Docker.
func rollingDocker(ctx context.Context, e testbed.Env) error {
	docker, err := peer.NewDocker(ctx, e, 5, 3)
	if err != nil {
		return err
	}
	defer docker.Close()
	if err := docker.CreateReplicated(ctx, "rolled", rolledReplicas); err != nil {
		return err
	}
	r, err := newRolled(ctx, e)
	if err != nil {
		return err
	}
	defer r.Down()
	return compareRolling(ctx, e, r, "docker", "dockerd in the same run", "0.33", func(parallelism int) (time.Duration, error) {
		return docker.Roll(ctx, "rolled", rolledReplicas, parallelism)
	})
}

func compareRolling(ctx context.Context, e testbed.Env, r *rolled, with, words, goal string, theirs func(parallelism int) (time.Duration, error)) error {
	for _, parallelism := range []int{2, 10} {
		var ours, others figure.Times
		for range e.Rounds {
			took, err := r.update(ctx, parallelism)
			if err != nil {
				return fmt.Errorf("ours: %w", err)
			}
			ours = append(ours, took)
			if took, err = theirs(parallelism); err != nil {
				return fmt.Errorf("%s: %w", with, err)
			}
			others = append(others, took)
		}
		figure.Print(fmt.Sprintf("rolling_p%d_vs_%s", parallelism, with), figure.TimesRatio(ours, others), "x", fmt.Sprintf(
			"%d replicas with an overlay network on 5 hosts, parallelism %d, until all run the new revision: %s s, to %s: %s s; goal %s",
			rolledReplicas, parallelism, ours.Seconds(), words, others.Seconds(), goal))
	}
	return nil
}

// rolled is a cluster with a service to update.
type rolled struct {
	*testbed.Cluster
}

func newRolled(ctx context.Context, e testbed.Env) (*rolled, error) {
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 5, Managers: 3}, e.Archive)
	if err != nil {
		return nil, err
	}
	r := &rolled{Cluster: c}
	if err := r.create(ctx); err != nil {
		c.Down()
		return nil, err
	}
	return r, nil
}

func (r *rolled) create(ctx context.Context) error {
	info, err := r.Control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "bench"}})
	if err != nil {
		return err
	}
	w, err := testbed.Watch(ctx, r.Control)
	if err != nil {
		return err
	}
	spec := testbed.Service("rolled", rolledReplicas)
	spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: info.GetNetwork().GetId()}}
	return testbed.Create(ctx, r.Control, w, spec, rolledReplicas)
}

// update replaces all tasks, and returns the time until all run the new revision and no old one
// runs.
func (r *rolled) update(ctx context.Context, parallelism int) (time.Duration, error) {
	info, err := r.Control.GetService(ctx, &swarmv1.GetRequest{Id: "rolled"})
	if err != nil {
		return 0, err
	}
	spec := info.GetRevision().GetSpec()
	spec.TaskTemplate.ForceUpdate++
	spec.UpdateConfig = &swarmv1.UpdateConfig{Parallelism: uint64(parallelism)}
	began := time.Now()
	updated, err := r.Control.UpdateService(ctx, &swarmv1.UpdateServiceRequest{Id: info.GetService().GetId(), Version: info.GetService().GetMeta().GetVersion(), Spec: spec})
	if err != nil {
		return 0, err
	}
	err = testbed.Poll(ctx, "the update", func() bool {
		tasks, err := r.Control.ListTasks(ctx, &swarmv1.ListRequest{})
		if err != nil {
			return false
		}
		fresh, old := 0, 0
		for _, t := range tasks.GetTasks() {
			switch {
			case t.GetStatus().GetState() != swarmv1.TaskState_RUNNING:
			case t.GetTask().GetRevision() == updated.GetRevision():
				fresh++
			default:
				old++
			}
		}
		return fresh == rolledReplicas && old == 0
	})
	return time.Since(began), err
}
