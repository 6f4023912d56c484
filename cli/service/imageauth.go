package service

import (
	"context"

	"swarm/cli/command"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// imageAuth returns the user's credentials for the registry of the service's image, "" if there are
// none. With keep it also puts them into the specification, for nodes that pull later.
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
