package volume

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `volume ls --filter` takes.
var filters = []string{"dangling", "driver", "label", "name", "node"}

// pruneFilters are the keys that `volume prune --filter` takes.
var pruneFilters = []string{"all", "label", "node"}

// New returns the group of commands `swarm volume`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "volume", Short: "Manage volumes"},
		newBackup(deps), newClone(deps), newCreate(deps), newInspect(deps), newLs(deps), newPrune(deps), newRestore(deps), newRm(deps))
}

type createOptions struct {
	name, driver, node string
	labels, options    flag.List
}

func newCreate(deps *command.Deps) *cobra.Command {
	o := createOptions{labels: flag.List{Kind: "list"}, options: flag.List{Kind: "map"}}
	c := command.Verb(&cobra.Command{
		Use: "create [OPTIONS] VOLUME", Short: "Create a volume", Args: usage.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			o.name = args[0]
			return runCreate(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.StringVarP(&o.driver, "driver", "d", spec.LocalDriver, "Specify volume driver name")
	f.Var(&o.labels, "label", "Set metadata for a volume")
	f.VarP(&o.options, "opt", "o", "Set driver specific options: type, device and o, as for mount(8)")
	f.StringVar(&o.node, "node", "", "Node that gets the volume, by id or name (not for a file server)")
	return c
}

// volume returns the volume that the options describe.
func (o createOptions) volume() (*swarmv1.Volume, error) {
	v := &swarmv1.Volume{
		Name: o.name, Labels: flag.AddPairs(nil, o.labels.Values),
		Driver: &swarmv1.Driver{Name: o.driver, Options: flag.AddPairs(nil, o.options.Values)},
	}
	return v, spec.Volume(v)
}

func runCreate(ctx context.Context, deps *command.Deps, o createOptions) error {
	v, err := o.volume()
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		made, err := c.Volumes.CreateVolume(ctx, &swarmv1.CreateVolumeRequest{Volume: v, Node: o.node})
		if err != nil {
			return err
		}
		term.Printf(deps.Out, "%s\n", made.GetVolume().GetName())
		return nil
	})
}

func newLs(deps *command.Deps) *cobra.Command {
	var o command.ListOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List volumes", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o, "Only display volume names", filters)
	return c
}

var listing = term.Table{
	Columns: []term.Column{{"Driver", "DRIVER"}, {"Name", "VOLUME NAME"}, {"Node", "NODE"}, {"Size", "SIZE"}, {"Tasks", "TASKS"}},
	More: []term.Column{
		{"Scope", "SCOPE"},
		{"Mountpoint", "MOUNTPOINT"},
		{"Labels", "LABELS"},
		{"Links", "LINKS"},
		{"CreatedAt", "CREATED AT"},
		{"Status", "STATUS"},
	},
	Id: "Name",
}

func runLs(ctx context.Context, deps *command.Deps, o command.ListOptions) error {
	filter, rest, err := parseFilters(o.Filters, filters)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Volumes.ListVolumes(ctx, &swarmv1.ListVolumesRequest{Filter: filter})
		if err != nil {
			return err
		}
		var rows []term.Row
		for _, v := range r.GetVolumes() {
			if fits(v, rest) {
				rows = append(rows, row(v))
			}
		}
		return deps.PrintTable(listing, o.Format, rows)
	})
}

// parseFilters returns the filters that managers apply, and the others by key.
func parseFilters(list, allowed []string) (*swarmv1.Filter, map[string][]string, error) {
	filter, rest, err := flag.ParseFilters(list, allowed...)
	if err != nil {
		return nil, nil, err
	}
	for _, key := range []string{"dangling", "all"} {
		for i, value := range rest[key] {
			b, err := strconv.ParseBool(value)
			if err != nil {
				return nil, nil, usage.Invalidf("filter %s=%s: use true or false", key, value)
			}
			rest[key][i] = strconv.FormatBool(b)
		}
	}
	filter.NodeIds = rest["node"]
	return filter, rest, nil
}

// fits reports whether the filters that managers do not know match a volume.
func fits(v *swarmv1.VolumeInfo, want map[string][]string) bool {
	for key, value := range map[string]string{"driver": driver(v), "dangling": strconv.FormatBool(!v.GetInUse())} {
		if len(want[key]) > 0 && !slices.Contains(want[key], value) {
			return false
		}
	}
	return true
}

func driver(v *swarmv1.VolumeInfo) string {
	if name := v.GetVolume().GetDriver().GetName(); name != "" {
		return name
	}
	return spec.LocalDriver
}

// created returns when a node made the volume, or, for a file server, when a user did.
func created(v *swarmv1.VolumeInfo) *timestamppb.Timestamp {
	if at := v.GetVolume().GetCreatedAt(); at != nil {
		return at
	}
	return v.GetVolume().GetMeta().GetCreatedAt()
}

func scope(v *swarmv1.VolumeInfo) string {
	if v.GetVolume().GetNodeId() == "" {
		return "global"
	}
	return "local"
}

// status returns what a user must know about a volume before using it.
func status(v *swarmv1.VolumeInfo) string {
	switch {
	case v.GetUnreachable():
		return "node away"
	case !v.GetVolume().GetReported():
		return "not made yet"
	case len(v.GetWaiting()) > 0:
		return "awaited"
	case v.GetInUse():
		return "in use"
	}
	return "unused"
}

func row(v *swarmv1.VolumeInfo) term.Row {
	size := "N/A"
	if v.GetVolume().GetMeasuredAt() != nil {
		size = term.Size(v.GetVolume().GetSize())
	}
	return term.Row{
		"Driver": driver(v), "Name": v.GetVolume().GetName(), "Node": nodeText(v), "Size": size, "Tasks": tasksText(v),
		"Scope": scope(v), "Mountpoint": v.GetVolume().GetMountpoint(), "Labels": term.JoinPairs(v.GetVolume().GetLabels()),
		"Links": strconv.Itoa(len(v.GetTasks())), "CreatedAt": term.Stamp(created(v)), "Status": status(v),
	}
}

// nodeText returns the name of the volume's node, as `service ls` shows "all" for every node.
func nodeText(v *swarmv1.VolumeInfo) string {
	if v.GetVolume().GetNodeId() == "" {
		return "all"
	}
	return v.GetHostname()
}

// tasksText lists the tasks that mount a volume. Those that wait for its node are in brackets.
func tasksText(v *swarmv1.VolumeInfo) string {
	names := slices.Clone(v.GetTasks())
	for _, w := range v.GetWaiting() {
		names = append(names, "("+w+")")
	}
	const shown = 3
	text := strings.Join(names[:min(shown, len(names))], ", ")
	if more := len(names) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// names completes the names of volumes.
func names(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete.Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.Volumes.ListVolumes(ctx, &swarmv1.ListVolumesRequest{})
			var out []string
			for _, v := range r.GetVolumes() {
				out = append(out, v.GetVolume().GetName())
			}
			return slices.Compact(out), err // They are ordered by name.
		})
	}
}
