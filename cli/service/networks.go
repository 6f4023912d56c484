package service

import (
	"context"

	"swarm/cli/command"
	swarmv1 "swarm/proto/swarm/v1"
)

// nameNetworks replaces the ids of networks in a specification by their names.
func nameNetworks(ctx context.Context, c command.Client, s *swarmv1.ServiceSpec) error {
	uses := s.GetTaskTemplate().GetNetworks()
	if len(uses) == 0 {
		return nil
	}
	names, err := networkNames(ctx, c)
	for _, n := range uses {
		if name, ok := names[n.GetTarget()]; ok {
			n.Target = name
		}
	}
	return err
}

// networkNames returns the names of networks by id.
func networkNames(ctx context.Context, c command.Client) (map[string]string, error) {
	r, err := c.ListNetworks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(r.Networks))
	for _, n := range r.Networks {
		names[n.GetNetwork().GetId()] = n.GetNetwork().GetSpec().GetName()
	}
	return names, nil
}
