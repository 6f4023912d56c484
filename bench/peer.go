package main

import (
	"context"
	"fmt"
	"net/http"

	"swarm/dev"
	swarmv1 "swarm/proto/swarm/v1"
)

// peerOverlay: 50 replicas with an overlay network on five hosts, ours and Docker's in turn, on clusters that are both up.
func peerOverlay(ctx context.Context, e env) error {
	const nodes, managers, replicas = 5, 3, 50
	docker, err := newDockerCluster(ctx, e, nodes, managers)
	if err != nil {
		return err
	}
	defer docker.close()
	if err := docker.hosts[0].call(ctx, http.MethodPost, "/networks/create", map[string]any{"Name": "bench", "Driver": "overlay", "CheckDuplicate": true}, nil); err != nil {
		return err
	}
	c, err := bring(ctx, e, dev.Options{Nodes: nodes, Managers: managers}, e.archive)
	if err != nil {
		return err
	}
	defer c.down()
	info, err := c.control.CreateNetwork(ctx, &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "bench"}})
	if err != nil {
		return err
	}
	var create, remove, theirCreate, theirRemove times
	for i := range e.rounds + 1 {
		name := fmt.Sprintf("fifty%d", i)
		spec := service(name, replicas)
		spec.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: info.GetNetwork().GetId()}}
		made, gone, err := createAndRemove(ctx, c.control, spec, replicas, nil)
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		theirMade, theirGone, err := docker.createAndRemove(ctx, name, "bench", replicas)
		if err != nil {
			return fmt.Errorf("docker: %w", err)
		}
		if i == 0 {
			continue // The first spreads images and opens connections.
		}
		create, remove = append(create, made), append(remove, gone)
		theirCreate, theirRemove = append(theirCreate, theirMade), append(theirRemove, theirGone)
	}
	figure("create50_overlay_vs_docker", ratios(create, theirCreate), "x", fmt.Sprintf(
		"50 replicas with an overlay network on 5 hosts, to all running: %s s of %s s, in pairs; goal 0.33", create.seconds(), theirCreate.seconds()))
	figure("remove50_overlay_vs_docker", ratios(remove, theirRemove), "x", fmt.Sprintf(
		"the same until no task is left: %s s of %s s", remove.seconds(), theirRemove.seconds()))
	return nil
}
