package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

type updateOptions struct {
	ref, hostname      string
	role, availability flag.Choice
	labelAdd, labelRm  flag.List
}

func newUpdate(deps *command.Deps) *cobra.Command {
	o := updateOptions{
		role: flag.Choice{Choices: []string{"worker", "manager"}}, availability: flag.Choice{Choices: flag.Availabilities},
		labelAdd: flag.List{Kind: "list", Check: flag.CheckLabel}, labelRm: flag.List{Kind: "list"},
	}
	c := command.Verb(&cobra.Command{
		Use: "update [OPTIONS] NODE", Short: "Update a node", Args: usage.ExactArgs(1), ValidArgsFunction: complete.Nodes(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return runUpdate(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.Var(&o.availability, "availability", `Availability of the node ("active", "pause", "drain")`)
	f.StringVar(&o.hostname, "hostname", "", "Hostname of the node in the swarm, for lists and constraints (default: as it joined)")
	f.Var(&o.labelAdd, "label-add", `Add or update a node label ("key=value")`)
	f.Var(&o.labelRm, "label-rm", "Remove a node label if exists")
	f.Var(&o.role, "role", `Role of the node ("worker", "manager")`)
	complete.Choices(c, "availability", flag.Availabilities)
	complete.Choices(c, "role", o.role.Choices)
	return c
}

// apply changes a specification as the flags say.
func (o updateOptions) apply(spec *swarmv1.NodeSpec) error {
	if o.availability.Value != "" {
		spec.Availability = flag.ParseAvailability(o.availability.Value)
	}
	if o.role.Value != "" {
		spec.Role = swarmv1.NodeSpec_Role(swarmv1.NodeSpec_Role_value[strings.ToUpper(o.role.Value)])
	}
	for _, key := range o.labelRm.Values {
		if _, ok := spec.Labels[key]; !ok {
			return usage.Invalidf("key %s doesn't exist in the node's labels: see them with `swarm node inspect --pretty`", key)
		}
		delete(spec.Labels, key)
	}
	for _, label := range o.labelAdd.Values {
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		k, v := flag.KeyValue(label)
		spec.Labels[k] = v
	}
	return nil
}

func runUpdate(ctx context.Context, deps *command.Deps, o updateOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		if _, err := updateNode(ctx, c, o.ref, o.hostname, o.apply); err != nil {
			return err
		}
		term.Printf(deps.Out, "%s\n", o.ref)
		return nil
	})
}

// updateNode edits the specification of a node, and its hostname unless that is "". It repeats the
// edit if another write came first. It returns the node as it was before.
func updateNode(ctx context.Context, c command.Client, ref, hostname string, edit func(*swarmv1.NodeSpec) error) (*swarmv1.NodeInfo, error) {
	for try := 0; ; try++ {
		n, err := command.FindNode(ctx, c, ref)
		if err != nil {
			return nil, err
		}
		spec := n.GetNode().GetSpec().CloneVT()
		if spec == nil {
			spec = &swarmv1.NodeSpec{}
		}
		if err := edit(spec); err != nil {
			return nil, err
		}
		if spec.EqualVT(n.GetNode().GetSpec()) && (hostname == "" || hostname == n.GetNode().GetHostname()) {
			return n, nil
		}
		_, err = c.UpdateNode(ctx, &swarmv1.UpdateNodeRequest{Id: n.Node.Id, Version: n.Node.GetMeta().GetVersion(), Spec: spec, Hostname: hostname})
		if command.IsStale(err) && try < command.StaleRetries {
			continue
		}
		return n, err
	}
}

func newRole(deps *command.Deps, name, short string, role swarmv1.NodeSpec_Role) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: name + " NODE [NODE...]", Short: short, Args: usage.MinArgs(1), ValidArgsFunction: complete.Nodes(deps),
		RunE: func(c *cobra.Command, args []string) error { return runRole(c.Context(), deps, role, args) },
	})
}

func runRole(ctx context.Context, deps *command.Deps, role swarmv1.NodeSpec_Role, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			before, err := updateNode(ctx, c, ref, "", func(spec *swarmv1.NodeSpec) error {
				spec.Role = role
				return nil
			})
			switch {
			case err != nil:
				return err
			case before.GetNode().GetSpec().GetRole() == role:
				term.Printf(deps.Out, "Node %s is already a %s.\n", ref, term.EnumWord(role))
			case role == swarmv1.NodeSpec_MANAGER:
				if err := awaitVote(ctx, c, before.GetNode().GetId()); err != nil {
					return fmt.Errorf("node %s has become a manager, but it %w", ref, err)
				}
				term.Printf(deps.Out, "Node %s promoted to a manager in the swarm.\n", ref)
			default:
				term.Printf(deps.Out, "Manager %s demoted in the swarm.\n", ref)
			}
			return nil
		})
	})
}

const (
	// voteWait is how long promote waits for a new manager, which receives the whole state first.
	voteWait = 2 * time.Minute
	votePoll = 100 * time.Millisecond
)

// awaitVote waits until a new manager votes, because only voters count for the majority. The text
// of the error follows the name of the node in a sentence.
func awaitVote(ctx context.Context, c command.Client, id string) error {
	for began := time.Now(); ; {
		n, err := c.GetNode(ctx, &swarmv1.GetRequest{Id: id})
		switch {
		case err != nil:
			return fmt.Errorf("cannot be watched: %w", err)
		case n.GetManagerStatus().GetLeader(), n.GetManagerStatus().GetReachability() == swarmv1.ManagerStatus_REACHABLE:
			return nil
		case n.GetState().GetState() == swarmv1.NodeState_DOWN:
			return errors.New("is down: it votes when it is back")
		}
		if err := pause.For(ctx, votePoll); err != nil {
			return fmt.Errorf("had no vote yet: %w", err)
		}
		if time.Since(began) > voteWait {
			return fmt.Errorf("had no vote after %s: see `swarm node ls` here and the log of the daemon there", voteWait)
		}
	}
}

func newRm(deps *command.Deps) *cobra.Command {
	var force bool
	c := command.Verb(&cobra.Command{
		Use: "rm [OPTIONS] NODE [NODE...]", Aliases: []string{"remove"}, Short: "Remove one or more nodes from the swarm",
		Args: usage.MinArgs(1), ValidArgsFunction: complete.Nodes(deps),
		RunE: func(c *cobra.Command, args []string) error { return runRm(c.Context(), deps, force, args) },
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "Force remove a node from the swarm")
	return c
}

func runRm(ctx context.Context, deps *command.Deps, force bool, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(refs, func(ref string) error {
			n, err := command.FindNode(ctx, c, ref)
			if err != nil {
				return err
			}
			if _, err := c.RemoveNode(ctx, &swarmv1.RemoveNodeRequest{Id: n.Node.Id, Force: force}); err != nil {
				return err
			}
			term.Printf(deps.Out, "%s\n", ref)
			return nil
		})
	})
}
