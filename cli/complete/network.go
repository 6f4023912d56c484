package complete

import (
	"context"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Networks completes the names of the networks for which offered returns true.
func Networks(deps *command.Deps, offered func(*swarmv1.Network) bool) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListNetworks(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, n := range r.Networks {
				if offered(n.GetNetwork()) {
					out = append(out, n.GetNetwork().GetSpec().GetName())
				}
			}
			return out, nil
		})
	}
}

// IsAnyNetwork returns true for every network.
func IsAnyNetwork(*swarmv1.Network) bool { return true }

// IsCustom reports whether a user created the network.
func IsCustom(n *swarmv1.Network) bool {
	return !spec.IsLocalNetwork(n.GetId()) && !n.GetSpec().GetIngress()
}

// IsForServices reports whether services can be attached to the network.
func IsForServices(n *swarmv1.Network) bool { return !n.GetSpec().GetIngress() }
