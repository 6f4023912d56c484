package main

import (
	"context"
	"fmt"
	"time"

	"swarm/bench/figure"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// lostTasks is the number of tasks on the host that is lost.
const lostTasks = 20

// nodeLoss measures how long it takes to notice that a worker host is lost, and to run all of its
// tasks elsewhere. The host loses its cable, or its power.
func nodeLoss(ctx context.Context, e testbed.Env) error {
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: 5, Managers: 3}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	w, err := testbed.Watch(ctx, c.Control)
	if err != nil {
		return err
	}
	spec := testbed.Service("lost", lostTasks)
	spec.TaskTemplate.Placement = testbed.OnRole("worker")
	if err := testbed.Create(ctx, c.Control, w, spec, lostTasks); err != nil {
		return err
	}
	const runs = 10
	for _, way := range []struct {
		name, words string
		lose, back  func(host string) error
	}{
		{"cut", "the host's cable is cut", func(h string) error { return c.Cut(dev.Cut{Hosts: []string{h}}) }, func(h string) error { return c.Heal(h) }},
		{"kill", "every process of the host is killed", func(h string) error { return c.PowerOff(ctx, h) }, func(h string) error { return c.Start(ctx, h) }},
	} {
		var noticed, replaced figure.Times
		for i := range runs {
			lost, other := c.Nodes[3+i%2].Name, c.Nodes[4-i%2].Name
			if err := gather(ctx, c, lost, other); err != nil {
				return err
			}
			began := time.Now()
			if err := way.lose(lost); err != nil {
				return err
			}
			if err := testbed.Poll(ctx, lost+" to be down", func() bool { return nodeState(ctx, c, lost) == swarmv1.NodeState_DOWN }); err != nil {
				return err
			}
			noticed = append(noticed, time.Since(began))
			if err := testbed.Poll(ctx, "the tasks to run on "+other, func() bool { return running(ctx, c, other) == lostTasks }); err != nil {
				return err
			}
			replaced = append(replaced, time.Since(began))
			if err := way.back(lost); err != nil {
				return err
			}
			if err := testbed.Poll(ctx, lost+" to return", func() bool { return nodeState(ctx, c, lost) == swarmv1.NodeState_READY }); err != nil {
				return err
			}
		}
		figure.Print("noticed_median_s_"+way.name, noticed.Median().Seconds(), "s", fmt.Sprintf("%s, until the node is down: %s s; goal 4", way.words, noticed.Seconds()))
		figure.Print("replaced_median_s_"+way.name, replaced.Median().Seconds(), "s", fmt.Sprintf("the same, until its %d tasks run on another host: %s s; goal 5", lostTasks, replaced.Seconds()))
	}
	return nil
}

// gather moves all tasks to one of the two workers, and makes the other one available again.
func gather(ctx context.Context, c *testbed.Cluster, to, from string) error {
	if err := available(ctx, c, from, swarmv1.NodeSpec_DRAIN); err != nil {
		return err
	}
	if err := testbed.Poll(ctx, "the tasks to run on "+to, func() bool { return running(ctx, c, to) == lostTasks }); err != nil {
		return err
	}
	return available(ctx, c, from, swarmv1.NodeSpec_ACTIVE)
}

func available(ctx context.Context, c *testbed.Cluster, host string, a swarmv1.NodeSpec_Availability) error {
	info, err := c.Control.GetNode(ctx, &swarmv1.GetRequest{Id: host})
	if err != nil {
		return err
	}
	spec := info.GetNode().GetSpec()
	spec.Availability = a
	_, err = c.Control.UpdateNode(ctx, &swarmv1.UpdateNodeRequest{Id: info.GetNode().GetId(), Spec: spec})
	return err
}

func nodeState(ctx context.Context, c *testbed.Cluster, host string) swarmv1.NodeState_State {
	info, err := c.Control.GetNode(ctx, &swarmv1.GetRequest{Id: host})
	if err != nil {
		return swarmv1.NodeState_UNKNOWN
	}
	return info.GetState().GetState()
}

// running returns the number of tasks that run on a host and are to run there.
func running(ctx context.Context, c *testbed.Cluster, host string) (n int) {
	tasks, err := c.Control.ListTasks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return 0
	}
	for _, t := range tasks.GetTasks() {
		if t.GetNodeName() == host && t.GetStatus().GetState() == swarmv1.TaskState_RUNNING && t.GetTask().GetDesiredState() == swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}
