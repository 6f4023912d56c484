package node

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/facts"
	swarmv1 "swarm/proto/swarm/v1"
)

func newAccept(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "accept NODE [NODE...]", Short: "Accept changed engine labels, resources or platform of one or more nodes",
		Args: usage.MinArgs(1), ValidArgsFunction: complete.Nodes(deps),
		RunE: func(c *cobra.Command, args []string) error { return runAccept(c.Context(), deps, args) },
	})
}

// runAccept accepts what the nodes report at the moment, and prints it.
func runAccept(ctx context.Context, deps *command.Deps, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			n, err := command.FindNode(ctx, c, ref)
			if err != nil {
				return err
			}
			changes := pending(n.GetState())
			if len(changes) == 0 {
				return usage.Invalidf("node %s has no pending changes: `swarm node ls` marks the nodes that have", ref)
			}
			if _, err := c.AcceptNode(ctx, &swarmv1.AcceptNodeRequest{Id: n.Node.Id, Facts: n.GetState().GetPending()}); err != nil {
				return err
			}
			for _, change := range changes {
				term.Printf(deps.Out, "Node %s: accepted %s.\n", ref, change)
			}
			return nil
		})
	})
}

// pending returns what a node reports and nobody has accepted yet, one line each.
func pending(s *swarmv1.NodeState) []string {
	if s.GetPending() == nil {
		return nil
	}
	return facts.Changes(facts.Of(s.GetDescription()), s.GetPending())
}

func writePending(w io.Writer, n *swarmv1.NodeInfo) {
	changes := pending(n.GetState())
	if len(changes) == 0 {
		return
	}
	fmt.Fprintln(w, "Pending:")
	for _, change := range changes {
		term.Printf(w, " - %s\n", change)
	}
	term.Printf(w, " No task is placed by them. Accept them with: swarm node accept %s\n", term.NodeHostname(n))
}
