package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

func newInspect(deps *command.Deps) *cobra.Command {
	var template, node string
	c := command.Verb(&cobra.Command{
		Use: "inspect [OPTIONS] VOLUME [VOLUME...]", Short: "Display detailed information on one or more volumes", Args: usage.MinArgs(1),
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			return runInspect(c.Context(), deps, template, node, args)
		},
	})
	command.InspectFormatFlag(c, &template)
	c.Flags().StringVar(&node, "node", "", "Only the volume on this node, by id or name")
	return c
}

// runInspect prints every volume with one of the names: several nodes may have one each.
func runInspect(ctx context.Context, deps *command.Deps, template, node string, refs []string) error {
	return deps.Connect(ctx, func(c command.Client) error {
		var objects []term.Object
		missing := deps.OnEach(refs, func(ref string) error {
			filter := &swarmv1.Filter{Names: []string{ref}}
			if node != "" {
				filter.NodeIds = []string{node}
			}
			r, err := c.Volumes.ListVolumes(ctx, &swarmv1.ListVolumesRequest{Filter: filter})
			if err != nil {
				return err
			}
			found := false
			for _, v := range r.GetVolumes() {
				if v.GetVolume().GetName() == ref { // Filters ignore case, and names of volumes do not.
					objects, found = append(objects, object(v)), true
				}
			}
			if !found {
				return fmt.Errorf("no volume %s: see `swarm volume ls`", ref)
			}
			return nil
		})
		if missing != nil && len(objects) == 0 {
			return missing
		}
		return errors.Join(term.PrintObjects(deps.Out, template, objects), missing)
	})
}

// object returns a volume in Docker's shape, with its node, size and tasks.
func object(info *swarmv1.VolumeInfo) term.Object {
	v := info.GetVolume()
	o := term.Object{
		{"CreatedAt", term.Stamp(created(info))},
		{"Driver", driver(info)},
		{"Labels", term.Pairs(v.GetLabels())},
		{"Mountpoint", v.GetMountpoint()},
		{"Name", v.GetName()},
		{"Options", term.Pairs(v.GetDriver().GetOptions())},
		{"Scope", scope(info)},
		{"State", status(info)},
	}
	if v.GetNodeId() != "" {
		o = append(o, term.Member{"Node", term.Object{{"ID", v.GetNodeId()}, {"Hostname", info.GetHostname()}}})
	}
	if v.GetMeasuredAt() != nil {
		o = append(o, term.Member{"UsageData", term.Object{
			{"RefCount", len(info.GetTasks())}, {"Size", v.GetSize()}, {"MeasuredAt", term.Stamp(v.GetMeasuredAt())},
		}})
	}
	return append(o, term.Member{"Tasks", textList(info.GetTasks())}, term.Member{"Waiting", textList(info.GetWaiting())})
}

func textList(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
