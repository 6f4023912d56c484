package system

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

var dfListing = term.Table{
	Id: "Type",
	Columns: []term.Column{
		{"Type", "TYPE"},
		{"TotalCount", "TOTAL"},
		{"Active", "ACTIVE"},
		{"Size", "SIZE"},
		{"Reclaimable", "RECLAIMABLE"},
	},
}

var dfNodeListing = term.Table{
	Id: "Node",
	Columns: []term.Column{
		{"Node", "NODE"},
		{"Disk", "DISK"},
		{"Used", "USED"},
		{"Images", "IMAGES"},
		{"Containers", "CONTAINERS"},
		{"Volumes", "LOCAL VOLUMES"},
		{"Logs", "LOGS"},
		{"Reclaimable", "RECLAIMABLE"},
	},
}

type dfOptions struct {
	verbose bool
	format  string
	nodes   []string
}

func newDf(deps *command.Deps) *cobra.Command {
	var o dfOptions
	nodes := flag.List{Kind: "list"}
	c := command.Verb(&cobra.Command{
		Use: "df [OPTIONS]", Short: "Show what uses the nodes' disks", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o.nodes = nodes.Values
			return runDf(c.Context(), deps, o)
		},
	})
	c.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "Show detailed information on space usage")
	c.Flags().StringVar(&o.format, "format", "", term.FormatHelp)
	c.Flags().Var(&nodes, "node", "Nodes to ask, by id or name (default: all)")
	return c
}

func runDf(ctx context.Context, deps *command.Deps, o dfOptions) error {
	if o.verbose && o.format != "" && o.format != "json" {
		return usage.Invalidf("--verbose goes with no --format but json: leave one of them away")
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Disks.Usage(ctx, &swarmv1.DisksUsageRequest{Nodes: o.nodes})
		if err != nil {
			return err
		}
		for _, n := range r.GetNodes() {
			if n.GetError() != "" {
				term.Printf(deps.Err, "node %s is not counted: %s\n", n.GetHostname(), n.GetError())
			}
		}
		switch {
		case o.verbose && o.format == "json":
			return dfObject(deps, r.GetNodes())
		case o.verbose:
			return dfDetails(deps, r.GetNodes())
		}
		if err := deps.PrintTable(dfListing, term.Format{Template: o.format}, dfRows(r.GetNodes())); err != nil || o.format != "" {
			return err
		}
		fmt.Fprintln(deps.Out)
		return deps.PrintTable(dfNodeListing, term.Format{}, dfNodeRows(r.GetNodes()))
	})
}

// share is the disk space of one kind of object, on one node or on all nodes.
type share struct {
	total, active     int
	size, reclaimable int64
}

func (s *share) add(active bool, size, reclaimable int64) {
	s.total++
	s.size += size
	if active {
		s.active++
	} else {
		s.reclaimable += reclaimable
	}
}

type shares struct{ images, containers, volumes, logs share }

func (s *shares) count(u *swarmv1.DiskUsageResponse) {
	for _, i := range u.GetImages() {
		s.images.add(i.GetContainers() > 0, 0, i.GetUnique())
	}
	s.images.size += u.GetImagesSize() // counts layers that several images share once
	for _, c := range u.GetContainers() {
		s.containers.add(!c.GetDead(), c.GetSize(), c.GetSize())
	}
	for _, v := range u.GetVolumes() {
		s.volumes.add(v.GetLinks() > 0, v.GetSize(), v.GetSize())
	}
	for _, l := range u.GetLogs() {
		s.logs.add(l.GetRetired() == nil, l.GetSize(), l.GetSize())
	}
}

func (s *shares) reclaimable() int64 {
	return s.images.reclaimable + s.containers.reclaimable + s.logs.reclaimable
}

func dfRows(nodes []*swarmv1.NodeUsage) []term.Row {
	var all shares
	for _, n := range nodes {
		all.count(n.GetUsage())
	}
	line := func(kind string, s share) term.Row {
		back := term.Size(s.reclaimable)
		if s.size > 0 {
			back += fmt.Sprintf(" (%d%%)", s.reclaimable*100/s.size)
		}
		return term.Row{"Type": kind, "TotalCount": fmt.Sprint(s.total), "Active": fmt.Sprint(s.active), "Size": term.Size(s.size), "Reclaimable": back}
	}
	return []term.Row{line("Images", all.images), line("Containers", all.containers), line("Local Volumes", all.volumes), line("Logs", all.logs)}
}

func dfNodeRows(nodes []*swarmv1.NodeUsage) []term.Row {
	var rows []term.Row
	for _, n := range nodes {
		if n.GetUsage() == nil {
			rows = append(rows, term.Row{
				"Node": n.GetHostname(), "Disk": "no answer", "Used": "", "Images": "", "Containers": "", "Volumes": "", "Logs": "", "Reclaimable": "",
			})
			continue
		}
		var s shares
		s.count(n.GetUsage())
		used := int64(0)
		if total := n.GetUsage().GetTotal(); total > 0 {
			used = (total - n.GetUsage().GetFree()) * 100 / total
		}
		rows = append(rows, term.Row{
			"Node": n.GetHostname(), "Disk": term.Size(n.GetUsage().GetTotal()), "Used": fmt.Sprintf("%d%%", used), "Images": term.Size(s.images.size),
			"Containers": term.Size(s.containers.size), "Volumes": term.Size(s.volumes.size), "Logs": term.Size(s.logs.size), "Reclaimable": term.Size(s.reclaimable()),
		})
	}
	return rows
}

// dfDetails lists every object on every node.
func dfDetails(deps *command.Deps, nodes []*swarmv1.NodeUsage) error {
	for _, t := range usageTables(deps) {
		if err := t.print(deps.Out, nodes); err != nil {
			return err
		}
	}
	return nil
}

// usageTable describes the table of one kind of object: the objects on each node and their sizes.
type usageTable struct {
	title, header string
	rows          func(u *swarmv1.DiskUsageResponse, row func(cells ...any))
}

func (t usageTable) print(w io.Writer, nodes []*swarmv1.NodeUsage) error {
	term.Printf(w, "%s space usage:\n\n", t.title)
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\t"+t.header) // not term.Printf: the header is ours, with tabs
	for _, n := range nodes {
		t.rows(n.GetUsage(), func(cells ...any) {
			words := []string{printable.Line(n.GetHostname())}
			for _, c := range cells {
				words = append(words, printable.Line(fmt.Sprint(c)))
			}
			fmt.Fprintln(tw, strings.Join(words, "\t")) // not term.Printf: each word is a line already
		})
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return nil
}

func usageTables(deps *command.Deps) []usageTable {
	return []usageTable{
		{"Images", "REPOSITORY\tTAG\tIMAGE ID\tLAST USED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS", func(u *swarmv1.DiskUsageResponse, row func(...any)) {
			for _, i := range u.GetImages() {
				repository, tag := term.SplitImage(i.GetImage().GetName())
				row(repository, tag, term.ShortID(strings.TrimPrefix(i.GetImage().GetDigest(), "sha256:")), term.Ago(deps.Now(), i.GetSince()),
					term.Size(i.GetSize()), term.Size(i.GetSize()-i.GetUnique()), term.Size(i.GetUnique()), i.GetContainers())
			}
		}},
		{"Containers", "TASK ID\tSIZE\tSTATUS", func(u *swarmv1.DiskUsageResponse, row func(...any)) {
			for _, c := range u.GetContainers() {
				row(c.GetTaskId(), term.Size(c.GetSize()), containerWord(c))
			}
		}},
		{"Local Volumes", "VOLUME NAME\tLINKS\tSIZE", func(u *swarmv1.DiskUsageResponse, row func(...any)) {
			for _, v := range u.GetVolumes() {
				row(v.GetName(), v.GetLinks(), term.Size(v.GetSize()))
			}
		}},
		{"Logs", "TASK ID\tSIZE\tSTATUS", func(u *swarmv1.DiskUsageResponse, row func(...any)) {
			for _, l := range u.GetLogs() {
				word := "Kept"
				if l.GetRetired() != nil {
					word = "Removed " + term.Ago(deps.Now(), l.GetRetired())
				}
				row(l.GetTaskId(), term.Size(l.GetSize()), word)
			}
		}},
	}
}

func containerWord(c *swarmv1.HeldContainer) string {
	switch {
	case c.GetDead():
		return "Dead"
	case c.GetRunning():
		return "Up"
	default:
		return "Exited"
	}
}

// dfObject prints all as one object of JSON, with sizes in bytes.
func dfObject(deps *command.Deps, nodes []*swarmv1.NodeUsage) error {
	var all []term.Object
	for _, n := range nodes {
		o := term.Object{{"Node", n.GetNodeId()}, {"Hostname", n.GetHostname()}}
		if n.GetError() != "" {
			o = append(o, term.Member{"Error", n.GetError()})
		}
		if n.GetUsage() != nil {
			o = append(o, term.Describe(n.GetUsage())...)
		}
		all = append(all, o)
	}
	return term.PrintJSON(deps.Out, term.Object{{"Nodes", all}})
}
