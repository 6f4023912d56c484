package service

import (
	"context"

	"swarm/cli/command"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// Credentials for registries come from where `docker login` and `swarm login` leave them.

// imageAuth is the caller's credentials for the image, "" when there are none. keep leaves them in the spec, for nodes that pull later.
func imageAuth(ctx context.Context, deps *command.Deps, s *swarmv1.ServiceSpec, keep bool) (string, error) {
	c := s.GetTaskTemplate().GetContainerSpec()
	auth, err := command.RegistryAuth(ctx, deps, c.GetImage())
	if err != nil || !keep {
		return auth, err
	}
	if auth == "" {
		term.Printf(deps.Err, "Warning: no credentials for the registry of %s are known: log in with `swarm login` first\n", c.GetImage())
		return "", nil
	}
	c.PullOptions = &swarmv1.PullOptions{RegistryAuth: auth}
	return auth, nil
}
