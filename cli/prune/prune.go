package prune

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `system prune` and `image prune` filter by.
var filters = []string{"until", "label", "label!"}

type options struct {
	all, volumes, force bool
	filters             []string
	nodes               []string
	// imagesOnly reports whether the verb is `image prune`.
	imagesOnly bool
}

// NewSystem returns the verb `system prune`.
func NewSystem(deps *command.Deps) *cobra.Command {
	var o options
	nodes := flag.List{Kind: "list"}
	c := command.Verb(&cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused data", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: "Remove unused objects from the nodes: dead containers with their anonymous volumes, logs of removed tasks, networks, and images without a name.",
		RunE: func(c *cobra.Command, _ []string) error {
			o.nodes = nodes.Values
			return run(c.Context(), deps, o)
		},
	})
	registerFlags(c, &o, &nodes)
	c.Flags().BoolVar(&o.volumes, "volumes", false, "Prune anonymous volumes (which always go with their containers)")
	return c
}

// NewImage returns the verb `image prune`.
func NewImage(deps *command.Deps) *cobra.Command {
	o := options{imagesOnly: true}
	nodes := flag.List{Kind: "list"}
	c := command.Verb(&cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove unused images", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o.nodes = nodes.Values
			return run(c.Context(), deps, o)
		},
	})
	registerFlags(c, &o, &nodes)
	return c
}

func registerFlags(c *cobra.Command, o *options, nodes *flag.List) {
	f := c.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Remove all unused images, not just dangling ones")
	f.BoolVarP(&o.force, "force", "f", false, "Do not prompt for confirmation")
	f.Var(&flag.Filter{Values: &o.filters, Keys: filters}, "filter", `Provide filter values (e.g. "until=24h", "label=KEY=VALUE"; labels are those of images)`)
	f.Var(nodes, "node", "Nodes to clean, by id or name (default: all)")
}

func run(ctx context.Context, deps *command.Deps, o options) error {
	req := &swarmv1.DisksPruneRequest{Nodes: o.nodes, Images: true, AllImages: o.all, Containers: !o.imagesOnly, Logs: !o.imagesOnly}
	for _, f := range o.filters {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "until":
			until, err := flag.ParseTime("filter until", value, deps.Now())
			if err != nil {
				return err
			}
			req.Until = until
		case "label":
			req.Labels = append(req.Labels, value)
		case "label!":
			k, v, valued := strings.Cut(value, "=")
			if k += "!"; valued {
				k += "=" + v
			}
			req.Labels = append(req.Labels, k)
		default:
			return usage.Invalidf("unknown filter %q: use one of %s", key, strings.Join(filters, ", "))
		}
	}
	if len(req.Labels) > 0 { // Only images have labels.
		req.Containers, req.Logs = false, false
	}
	if !o.force && !agreed(deps, o) {
		return nil
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Disks.Prune(ctx, req)
		if err != nil {
			return err
		}
		var networks []string
		if req.Containers && len(o.nodes) == 0 && req.Until == nil {
			pruned, err := c.PruneNetworks(ctx, &swarmv1.PruneNetworksRequest{})
			if err != nil && !command.IsUnimplemented(err) {
				return err
			}
			networks = pruned.GetRemoved()
		}
		return printPruned(deps, r, networks)
	})
}

// agreed lists what will be removed, as Docker does, and asks the user.
func agreed(deps *command.Deps, o options) bool {
	which := "all images without a name"
	if o.all {
		which = "all images without at least one service associated to them"
	}
	if o.imagesOnly {
		term.Printf(deps.Err, "WARNING! This will remove %s.\n", which)
	} else {
		term.Printf(deps.Err, "WARNING! This will remove:\n  - all dead containers\n  - all logs of removed tasks\n  - all networks not used by at least one service\n  - %s\n\n", which)
	}
	return deps.Confirm()
}

// printPruned prints the removed objects by kind, and the nodes that were not cleaned. It returns
// an error with exit code 1 if there are such nodes.
func printPruned(deps *command.Deps, r *swarmv1.DisksPruneResponse, networks []string) error {
	var containers, logs, digests []string
	var reclaimed int64
	failed := false
	for _, n := range r.GetNodes() {
		if n.GetError() != "" {
			term.Printf(deps.Err, "node %s was not cleaned: %s\n", n.GetHostname(), n.GetError())
			failed = true
		}
		containers = append(containers, n.GetPruned().GetContainers()...)
		logs = append(logs, n.GetPruned().GetLogs()...)
		digests = append(digests, n.GetPruned().GetDigests()...)
		reclaimed += n.GetPruned().GetReclaimed()
	}
	printKind(deps, "Containers", containers)
	printKind(deps, "Logs", logs)
	printKind(deps, "Networks", networks)
	slices.Sort(digests)
	var images []string
	for _, name := range r.GetUntagged() {
		images = append(images, "untagged: "+term.ShortImage(name))
	}
	for _, d := range slices.Compact(digests) {
		images = append(images, "deleted: "+d)
	}
	printKind(deps, "Images", images)
	term.Printf(deps.Out, "Total reclaimed space: %s\n", term.Size(reclaimed))
	if failed {
		return usage.ExitError{Code: 1}
	}
	return nil
}

func printKind(deps *command.Deps, kind string, items []string) {
	if len(items) == 0 {
		return
	}
	term.PrintList(deps.Out, "Deleted "+kind+":\n", items)
	fmt.Fprintln(deps.Out)
}
