package stats

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// listing has Docker's columns, and the node.
var listing = term.Table{
	Columns: []term.Column{
		{"ID", "CONTAINER ID"},
		{"Name", "NAME"},
		{"Node", "NODE"},
		{"CPUPerc", "CPU %"},
		{"MemUsage", "MEM USAGE / LIMIT"},
		{"MemPerc", "MEM %"},
		{"NetIO", "NET I/O"},
		{"BlockIO", "BLOCK I/O"},
		{"PIDs", "PIDS"},
	},
	More: []term.Column{{"Container", "CONTAINER"}, {"State", "STATE"}},
}

type options struct {
	refs                   []string
	nodes                  []string
	all, noStream, noTrunc bool
	format                 term.Format
}

// New returns the verb `swarm stats`.
func New(deps *command.Deps) *cobra.Command {
	var o options
	nodes := flag.List{Kind: "list"}
	c := command.Verb(&cobra.Command{
		Use: "stats [OPTIONS] [SERVICE|TASK...]", Short: "Display a live stream of the resource usage of tasks",
		Args: cobra.ArbitraryArgs, ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.refs, o.nodes = args, nodes.Values
			return run(c.Context(), deps, o)
		},
	})
	f := c.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show all tasks (default shows just running)")
	f.StringVar(&o.format.Template, "format", "", term.FormatHelp)
	f.BoolVar(&o.noStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	f.Var(&nodes, "node", "Show only tasks of these nodes, by id or name (default: of all)")
	return c
}

func run(ctx context.Context, deps *command.Deps, o options) error {
	// An unknown field is an error before the first round comes.
	if err := listing.Print(io.Discard, o.format, nil); err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := c.Stats.WatchStats(ctx, &swarmv1.WatchStatsRequest{Refs: o.refs, Nodes: o.nodes, All: o.all})
		if err != nil {
			return err
		}
		p := printer{deps: deps, options: o, view: term.NewView(deps.Out, false)}
		for {
			m, err := stream.Recv()
			if err != nil && ctx.Err() != nil && !o.noStream {
				return nil
			}
			if err != nil {
				return err
			}
			printed, err := p.print(m)
			if err != nil || printed && o.noStream {
				return err
			}
		}
	})
}

// printer prints rounds.
type printer struct {
	deps    *command.Deps
	options options
	view    *term.View
	rates   Rates
	begun   bool
	silent  map[string]string // the errors of nodes that were printed, by name
}

// print prints a round. It prints nothing for the first one if that has containers, because their
// CPU usage is known only from the second one on.
func (p *printer) print(m *swarmv1.WatchStatsResponse) (printed bool, err error) {
	loads := p.rates.Round(m)
	measured := slices.ContainsFunc(m.GetTasks(), func(t *swarmv1.TaskStats) bool { return t.GetUsage() != nil })
	if !p.begun && measured {
		p.begun = true
		return false, nil
	}
	p.begun = true
	rows := make([]term.Row, 0, len(m.GetTasks()))
	for _, t := range m.GetTasks() {
		rows = append(rows, row(t, loads[t.GetTaskId()], p.options.noTrunc))
	}
	if !p.view.OnTerminal() || p.options.noStream || !(p.options.format.IsTable() || strings.HasPrefix(p.options.format.Template, "table")) {
		p.warn(silentNodes(m))
		return true, p.deps.PrintTable(listing, p.options.format, rows)
	}
	var b bytes.Buffer
	if err := listing.Print(&b, p.options.format, rows); err != nil {
		return false, err
	}
	p.view.Draw(p.fit(strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"), silentNodes(m)))
	return true, nil
}

// fit returns the lines of a table, and then one for each node that does not answer, cut to the
// height of the terminal.
func (p *printer) fit(lines []string, silent map[string]string) []string {
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		lines = append(lines, fmt.Sprintf("node %s is not counted: %s", name, silent[name]))
	}
	if height := p.view.Height(); height > 2 && len(lines) >= height {
		shown := height - 2
		lines = append(lines[:shown:shown], fmt.Sprintf("... and %d more: name services or tasks, or use `swarm top`", len(lines)-shown))
	}
	return lines
}

// warn prints the errors of the nodes that do not answer, each once until it changes.
func (p *printer) warn(silent map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		if p.silent[name] != silent[name] {
			term.Printf(p.deps.Err, "node %s is not counted: %s\n", name, silent[name])
		}
	}
	p.silent = silent
}

func silentNodes(m *swarmv1.WatchStatsResponse) map[string]string {
	out := map[string]string{}
	for _, n := range m.GetNodes() {
		if n.GetError() != "" {
			out[n.GetName()] = n.GetError()
		}
	}
	return out
}

// unknown is printed for what is not known, as Docker does.
const unknown = "--"

// row returns the line of a task.
func row(t *swarmv1.TaskStats, load Load, noTrunc bool) term.Row {
	id := t.GetTaskId()
	if !noTrunc {
		id = term.ShortID(id)
	}
	r := term.Row{
		"ID": id, "Container": t.GetTaskId(), "Name": t.GetName(), "Node": t.GetNodeName(), "State": term.EnumWord(t.GetState()),
		"CPUPerc": unknown, "MemUsage": unknown + " / " + unknown, "MemPerc": unknown, "NetIO": unknown, "BlockIO": unknown, "PIDs": unknown,
	}
	u := t.GetUsage()
	if u == nil {
		return r
	}
	if load.Known {
		r["CPUPerc"] = Percent(load.CPU)
	}
	r["MemUsage"] = Memory(u.GetMemory()) + " / " + Memory(u.GetMemoryLimit())
	r["MemPerc"] = Percent(Part(u.GetMemory(), u.GetMemoryLimit()))
	r["NetIO"] = Bytes(u.GetReceived()) + " / " + Bytes(u.GetSent())
	r["BlockIO"] = Bytes(u.GetBlockRead()) + " / " + Bytes(u.GetBlockWritten())
	r["PIDs"] = fmt.Sprint(u.GetPids())
	return r
}

// Percent returns p as Docker prints percentages, like "12.34%".
func Percent(p float64) string { return fmt.Sprintf("%.2f%%", p) }

// Part returns n in percent of all, or 0 if all is 0.
func Part(n, all uint64) float64 {
	if all == 0 {
		return 0
	}
	return float64(n) / float64(all) * 100
}

// Memory returns a number of bytes in binary units, like "12.5MiB".
func Memory(n uint64) string { return units.BytesSize(float64(n)) }

// Bytes returns a number of bytes in decimal units, like "1.25kB".
func Bytes(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
