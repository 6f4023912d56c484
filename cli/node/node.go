package node

import (
	"context"
	"errors"
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
	"swarm/cli/tasktable"
	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/facts"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that `node ls --filter` takes.
var filters = []string{"id", "name", "label", "node.label", "role", "membership"}

// New returns the group of commands `swarm node`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "node", Short: "Manage swarm nodes"},
		newLs(deps), newPs(deps), newInspect(deps), newUpdate(deps), newDrain(deps),
		newRole(deps, "promote", "Promote one or more nodes to manager in the swarm", swarmv1.NodeSpec_MANAGER),
		newRole(deps, "demote", "Demote one or more nodes from manager in the swarm", swarmv1.NodeSpec_WORKER),
		newAccept(deps), newRm(deps))
}

func newLs(deps *command.Deps) *cobra.Command {
	var o command.ListOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List nodes in the swarm", Args: usage.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	command.ListFlags(c, &o, "Only display IDs", filters)
	return c
}

var listing = term.Table{
	Columns: []term.Column{
		{"ID", "ID"},
		{"Hostname", "HOSTNAME"},
		{"Status", "STATUS"},
		{"Availability", "AVAILABILITY"},
		{"ManagerStatus", "MANAGER STATUS"},
		{"EngineVersion", "ENGINE VERSION"},
	},
	More: []term.Column{{"Self", "SELF"}, {"TLSStatus", "TLS STATUS"}, {"Addr", "ADDR"}, {"Role", "ROLE"}, {"Pending", "PENDING"}},
}

func runLs(ctx context.Context, deps *command.Deps, o command.ListOptions) error {
	filter, rest, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	// Docker also has pending nodes. Here a node that joins is accepted or refused at once.
	for _, m := range rest["membership"] {
		if m != "accepted" {
			return usage.Invalidf("unknown membership %q: use accepted, which every node is", m)
		}
	}
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.ListNodes(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		self := command.SelfID(ctx, c)
		slices.SortFunc(r.Nodes, func(a, b *swarmv1.NodeInfo) int {
			return strings.Compare(term.NodeHostname(a)+"\x00"+a.Node.Id, term.NodeHostname(b)+"\x00"+b.Node.Id)
		})
		var rows []term.Row
		for _, n := range r.Nodes {
			rows = append(rows, row(n, self, o.Format.IsTable()))
		}
		return deps.PrintTable(listing, o.Format, rows)
	})
}

// row returns the row of a node. self is the id of the node that has answered. If marked is set,
// the row of that node has Docker's asterisk after the id.
func row(n *swarmv1.NodeInfo, self string, marked bool) term.Row {
	node := n.GetNode()
	id := node.GetId()
	if marked {
		mark := "  "
		if id == self {
			mark = " *"
		}
		id += mark
	}
	return term.Row{
		"ID": id, "Self": node.GetId() == self, "Hostname": term.NodeHostname(n),
		"Status":        status(n.GetState()),
		"Availability":  term.Capitalized(term.EnumWord(node.GetSpec().GetAvailability())),
		"ManagerStatus": managerWord(n.GetManagerStatus()),
		"EngineVersion": n.GetState().GetDescription().GetEngine().GetEngineVersion(),
		"TLSStatus":     "Ready", "Addr": node.GetAddr(), "Role": term.EnumWord(node.GetSpec().GetRole()),
		"Pending": strings.Join(pending(n.GetState()), "; "),
	}
}

// status returns Docker's word for the state of a node. If a ready node takes no tasks, status adds
// the reason briefly. It also says if changes of the node wait to be accepted.
func status(s *swarmv1.NodeState) string {
	word := term.Capitalized(term.EnumWord(s.GetState()))
	if why, _, _ := strings.Cut(s.GetDescription().GetUnavailable(), ":"); why != "" && s.GetState() == swarmv1.NodeState_READY {
		word += " (" + strings.TrimPrefix(why, "its ") + ")"
	}
	if s.GetPending() != nil {
		word += " (changes pending)"
	}
	return word
}

func managerWord(m *swarmv1.ManagerStatus) string {
	switch {
	case m == nil:
		return ""
	case m.Leader:
		return "Leader"
	}
	return reachabilityWord(m)
}

// reachabilityWord returns the state of a manager as a member of Raft: "Catching up".
func reachabilityWord(m *swarmv1.ManagerStatus) string {
	return term.Capitalized(strings.ReplaceAll(term.EnumWord(m.GetReachability()), "-", " "))
}

func newPs(deps *command.Deps) *cobra.Command {
	var o tasktable.Options
	c := command.Verb(&cobra.Command{
		Use: "ps [OPTIONS] [NODE...]", Short: "List tasks running on one or more nodes, defaults to current node",
		ValidArgsFunction: complete.Nodes(deps),
		RunE:              func(c *cobra.Command, args []string) error { return runPs(c.Context(), deps, o, args) },
	})
	tasktable.RegisterFlags(c, &o, tasktable.Filters)
	return c
}

func runPs(ctx context.Context, deps *command.Deps, o tasktable.Options, refs []string) error {
	if len(refs) == 0 {
		refs = []string{"self"}
	}
	filter, _, err := flag.ParseFilters(o.Filters, tasktable.Filters...)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		missing := deps.OnEach(refs, func(ref string) error {
			n, err := command.FindNode(ctx, c, ref)
			if err == nil {
				filter.NodeIds = append(filter.NodeIds, n.Node.Id)
			}
			return err
		})
		if len(filter.NodeIds) == 0 {
			return missing
		}
		_, err := tasktable.Print(ctx, deps, c, o, filter)
		return errors.Join(err, missing)
	})
}

func newInspect(deps *command.Deps) *cobra.Command {
	return command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] self|NODE [NODE...]", Short: "Display detailed information on one or more nodes", Complete: complete.Nodes(deps),
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			n, err := command.FindNode(ctx, c, ref)
			return object(n), err
		},
		Write: func(ctx context.Context, c command.Client, w io.Writer, ref string) error {
			n, err := command.FindNode(ctx, c, ref)
			if err == nil {
				writeNode(w, n)
			}
			return err
		},
	})
}

func object(n *swarmv1.NodeInfo) term.Object {
	node, state := n.GetNode(), n.GetState()
	o := term.Stored(node.GetId(), node.GetMeta()).With("Spec", node.GetSpec()).With("Description", state.GetDescription()).With("Pending", state.GetPending())
	status := term.Object{
		{"State", term.EnumWord(state.GetState())}, term.Optional("Message", state.GetMessage(), state.GetMessage() != ""), {"Addr", node.GetAddr()},
	}
	return append(o, term.Member{"Status", status}).With("ManagerStatus", n.GetManagerStatus())
}

func writeNode(w io.Writer, n *swarmv1.NodeInfo) {
	node, state := n.GetNode(), n.GetState()
	d := state.GetDescription()
	line := func(name string, v any) { term.Printf(w, "%-24s%v\n", name+":", v) }
	line("ID", node.GetId())
	if node.GetSpec().GetName() != "" {
		line("Name", node.GetSpec().GetName())
	}
	writeLabels(w, "Labels:", node.GetSpec().GetLabels())
	line("Hostname", term.NodeHostname(n))
	line("Joined at", term.Stamp(node.GetMeta().GetCreatedAt()))
	fmt.Fprintln(w, "Status:")
	line(" State", term.Capitalized(term.EnumWord(state.GetState())))
	if state.GetMessage() != "" {
		line(" Message", state.GetMessage())
	}
	line(" Availability", term.Capitalized(term.EnumWord(node.GetSpec().GetAvailability())))
	line(" Address", node.GetAddr())
	if m := n.GetManagerStatus(); m != nil {
		fmt.Fprintln(w, "Manager Status:")
		line(" Address", m.GetAddr())
		line(" Raft Status", reachabilityWord(m))
		line(" Leader", map[bool]string{true: "Yes", false: "No"}[m.GetLeader()])
	}
	fmt.Fprintln(w, "Platform:")
	line(" Operating System", d.GetPlatform().GetOs())
	line(" Architecture", d.GetPlatform().GetArchitecture())
	fmt.Fprintln(w, "Resources:")
	line(" CPUs", float64(d.GetResources().GetNanoCpus())/1e9)
	line(" Memory", units.BytesSize(float64(d.GetResources().GetMemoryBytes())))
	if generic := facts.Resources(d.GetResources().GetGeneric()); generic != "" {
		line(" Generic", generic)
	}
	line("Engine Version", d.GetEngine().GetEngineVersion())
	writeLabels(w, "Engine Labels:", d.GetEngine().GetLabels())
	if builds := d.GetEngine().GetBuilds(); len(builds) > 0 {
		fmt.Fprintln(w, "Builds:")
		for _, b := range builds {
			line(" "+term.Capitalized(b.GetPart()), b.GetBuild())
		}
	}
	writePortConflicts(w, d.GetPortConflicts())
	writePending(w, n)
}

// writeLabels writes labels below a title, or nothing if there are none.
func writeLabels(w io.Writer, title string, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	term.Printf(w, "%s\n", title)
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		term.Printf(w, " - %s=%s\n", k, labels[k])
	}
}
