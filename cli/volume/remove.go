package volume

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type rmOptions struct {
	node  string
	force bool
	names []string
}

func newRm(deps *command.Deps) *cobra.Command {
	var o rmOptions
	c := command.Verb(&cobra.Command{
		Use: "rm [OPTIONS] VOLUME [VOLUME...]", Aliases: []string{"remove"}, Short: "Remove one or more volumes", Args: usage.MinArgs(1),
		Long:              "Remove one or more volumes with their data. A volume that a task uses is not removed.",
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.names = args
			return runRm(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.node, "node", "", "Node that has the volume, by id or name (needed if several have one of that name)")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Also if tasks wait for the volume, or its node is away: they start on an empty one")
	return c
}

func runRm(ctx context.Context, deps *command.Deps, o rmOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		return deps.OnEach(o.names, func(name string) error {
			_, err := c.Volumes.RemoveVolume(ctx, &swarmv1.RemoveVolumeRequest{Name: name, Node: o.node, Force: o.force})
			if err == nil {
				term.Printf(deps.Out, "%s\n", name)
			} else if o.force && command.IsNotFound(err) {
				return nil
			}
			return err
		})
	})
}

type pruneOptions struct {
	all, force bool
	filters    []string
}

func newPrune(deps *command.Deps) *cobra.Command {
	var o pruneOptions
	c := command.Verb(&cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused local volumes", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Remove the volumes that no service has used or mounts. Without --all nothing is removed, because volumes without a name go with their task.",
		RunE: func(c *cobra.Command, _ []string) error { return runPrune(c.Context(), deps, o) },
	})
	c.Flags().BoolVarP(&o.all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	c.Flags().Var(&flag.Filter{Values: &o.filters, Keys: pruneFilters}, "filter", `Provide filter values (e.g. "label=KEY=VALUE", "node=NODE")`)
	return c
}

func runPrune(ctx context.Context, deps *command.Deps, o pruneOptions) error {
	filter, rest, err := parseFilters(o.filters, pruneFilters)
	if err != nil {
		return err
	}
	if !o.all && !slices.Contains(rest["all"], "true") {
		fmt.Fprintln(deps.Err, "Volumes without a name go with their task, so there is nothing to remove: use --all to remove unused volumes with a name.")
		fmt.Fprintln(deps.Out, "Total reclaimed space: 0B")
		return nil
	}
	if !o.force {
		fmt.Fprintln(deps.Err, "WARNING! This will remove all volumes that no service has used or mounts, with their data.")
		if !deps.Confirm() {
			return nil
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Volumes.PruneVolumes(ctx, &swarmv1.PruneVolumesRequest{Filter: filter})
		if err != nil {
			return err
		}
		var removed []string
		var reclaimed int64
		for _, p := range r.GetRemoved() {
			removed = append(removed, p.GetName()+" on "+p.GetHostname())
			reclaimed += p.GetReclaimed()
		}
		if len(removed) > 0 {
			term.PrintList(deps.Out, "Deleted Volumes:\n", removed)
			fmt.Fprintln(deps.Out)
		}
		term.Printf(deps.Out, "Total reclaimed space: %s\n", term.Size(reclaimed))
		for _, text := range r.GetErrors() {
			term.Printf(deps.Err, "%s\n", text)
		}
		if len(r.GetErrors()) > 0 {
			return usage.ExitError{Code: 1}
		}
		return nil
	})
}
