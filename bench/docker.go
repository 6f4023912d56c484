package main

import (
	"context"
	"fmt"
	"net/http"

	"swarm/bench/figure"
	"swarm/bench/peer"
	"swarm/bench/testbed"
	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// dockerOverlay measures a service of 50 replicas with an overlay network on five hosts, of swarm
// and of Docker in turn. Both clusters are up all the time.
func dockerOverlay(ctx context.Context, e testbed.Env) error {
	const nodes, managers, replicas = 5, 3, 50
	docker, err := peer.NewDocker(ctx, e, nodes, managers)
	if err != nil {
		return err
	}
	defer docker.Close()
	if err := docker.Hosts[0].Call(ctx, http.MethodPost, "/networks/create", map[string]any{"Name": "bench", "Driver": "overlay", "CheckDuplicate": true}, nil); err != nil {
		return err
	}
	c, err := testbed.Up(ctx, e, dev.Options{Nodes: nodes, Managers: managers}, e.Archive)
	if err != nil {
		return err
	}
	defer c.Down()
	info, err := c.Control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "bench"}})
	if err != nil {
		return err
	}
	var create, remove, theirCreate, theirRemove figure.Times
	for i := range e.Rounds + 1 {
		name := fmt.Sprintf("fifty%d", i)
		spec := testbed.Service(name, replicas)
		spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: info.GetNetwork().GetId()}}
		made, gone, err := testbed.CreateAndRemove(ctx, c.Control, spec, replicas, nil)
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		theirMade, theirGone, err := docker.CreateAndRemove(ctx, name, "bench", replicas)
		if err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		if i == 0 {
			continue // The first round spreads images and opens connections.
		}
		create, remove = append(create, made), append(remove, gone)
		theirCreate, theirRemove = append(theirCreate, theirMade), append(theirRemove, theirGone)
	}
	figure.Print("create50_overlay_vs_docker", figure.TimesRatio(create, theirCreate), "x", fmt.Sprintf(
		"50 replicas with an overlay network on 5 hosts, to all running: %s s of %s s, in pairs; goal 0.33", create.Seconds(), theirCreate.Seconds()))
	figure.Print("remove50_overlay_vs_docker", figure.TimesRatio(remove, theirRemove), "x", fmt.Sprintf(
		"the same until no task is left: %s s of %s s", remove.Seconds(), theirRemove.Seconds()))
	return nil
}
