package data

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// filters are the keys that --filter of ls takes.
var filters = []string{"id", "label", "name"}

func (n noun) newLs() *cobra.Command {
	var o command.ListOptions
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List " + n.Word + "s", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return n.runLs(c.Context(), o) },
	})
	command.ListFlags(c, &o, "Only display IDs", filters)
	return c
}

// listing returns the columns of ls: Docker's, and then the current version.
func (n noun) listing() term.Table {
	t := term.Table{Columns: []term.Column{{"ID", "ID"}, {"Name", "NAME"}}, More: []term.Column{{"Labels", "LABELS"}, {"Services", "SERVICES"}}}
	if n.Word == "secret" {
		t.Columns = append(t.Columns, term.Column{"Driver", "DRIVER"})
	}
	t.Columns = append(t.Columns, []term.Column{{"CreatedAt", "CREATED"}, {"UpdatedAt", "UPDATED"}, {"Version", "VERSION"}}...)
	return t
}

func (n noun) runLs(ctx context.Context, o command.ListOptions) error {
	filter, _, err := flag.ParseFilters(o.Filters, filters...)
	if err != nil {
		return err
	}
	return n.connect(ctx, func(m methods) error {
		r, err := m.list(ctx, &swarmv1.ListRequest{Filter: filter})
		if err != nil {
			return err
		}
		var rows []term.Row
		for _, info := range r.GetObjects() {
			row := term.Row{
				"ID": info.GetId(), "Name": info.GetSpec().GetName(), "CreatedAt": term.Ago(n.deps.Now(), info.GetMeta().GetCreatedAt()),
				"UpdatedAt": term.Ago(n.deps.Now(), info.GetMeta().GetUpdatedAt()), "Version": strconv.FormatUint(info.GetStatus().GetNumber(), 10),
				"Labels": term.JoinPairs(info.GetSpec().GetLabels()), "Services": strings.Join(serviceNames(info), ","),
			}
			if n.Word == "secret" {
				row["Driver"] = ""
			}
			rows = append(rows, row)
		}
		return n.deps.PrintTable(n.listing(), o.Format, rows)
	})
}

// serviceNames returns the names of the services that use an object, each once.
func serviceNames(info *swarmv1.DataInfo) []string {
	var out []string
	for _, use := range info.GetUses() {
		out = append(out, use.GetServiceName())
	}
	return slices.Compact(out)
}

func (n noun) newInspect() *cobra.Command {
	return command.NewInspect(n.deps, command.Inspection{
		Use: fmt.Sprintf("inspect [OPTIONS] %s [%s...]", n.arg, n.arg), Short: fmt.Sprintf("Display detailed information on one or more %ss", n.Word),
		Complete: n.names,
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			info, err := n.of(c).get(ctx, &swarmv1.GetRequest{Id: ref})
			return object(info), err
		},
		Write: func(ctx context.Context, c command.Client, w io.Writer, ref string) error {
			info, err := n.of(c).get(ctx, &swarmv1.GetRequest{Id: ref})
			if err == nil {
				writePretty(w, n, info)
			}
			return err
		},
	})
}

// object returns an object in Docker's shape, with its current version and its users.
func object(info *swarmv1.DataInfo) term.Object {
	s := info.GetSpec()
	sp := term.Object{{"Name", s.GetName()}, {"Labels", term.Pairs(s.GetLabels())}}
	sp = append(sp,
		term.Optional("Data", base64.StdEncoding.EncodeToString(info.GetData()), len(info.GetData()) > 0),
		term.Optional("Templating", term.Object{{"Name", s.GetTemplating().GetName()}}, s.GetTemplating() != nil))
	uses := []any{}
	for _, use := range info.GetUses() {
		ref := use.GetReference()
		u := term.Object{{"ServiceID", use.GetServiceId()}, {"ServiceName", use.GetServiceName()}, {"Number", ref.GetNumber()}, {"Pinned", ref.GetPinned()}}
		uses = append(uses, append(u, term.Optional("OnUpdate", actionText(ref.GetOnUpdate()), !ref.GetPinned())))
	}
	o := append(term.Stored(info.GetId(), info.GetMeta()), term.Member{"Spec", sp}, term.Member{"Number", info.GetStatus().GetNumber()}, term.Member{"Services", uses})
	if r := info.GetStatus().GetRollout(); r != nil {
		o = append(o, term.Member{"Rollout", term.Object{{"State", strings.ToLower(r.GetState().String())}, {"Message", r.GetMessage()}}})
	}
	return o
}

// actionText returns what a service does on a new version, as --secret takes it.
func actionText(on *swarmv1.OnUpdate) string {
	switch on.GetAction() {
	case swarmv1.OnUpdate_NONE:
		return "none"
	case swarmv1.OnUpdate_SIGNAL:
		return "signal=" + on.GetSignal()
	case swarmv1.OnUpdate_EXEC:
		return "exec=" + strings.Join(on.GetCommand(), " ")
	}
	return "restart"
}

// writePretty prints an object as Docker's `inspect --pretty`.
func writePretty(w io.Writer, n noun, info *swarmv1.DataInfo) {
	term.Printf(w, "ID:\t\t\t%s\nName:\t\t\t%s\n", info.GetId(), info.GetSpec().GetName())
	term.Printf(w, "Labels:\n")
	for _, k := range slices.Sorted(maps.Keys(info.GetSpec().GetLabels())) {
		term.Printf(w, " - %s=%s\n", k, info.GetSpec().GetLabels()[k])
	}
	if n.Word == "secret" {
		term.Printf(w, "Driver:\n")
	}
	term.Printf(w, "Created at:\t\t%s\nUpdated at:\t\t%s\n", term.Stamp(info.GetMeta().GetCreatedAt()), term.Stamp(info.GetMeta().GetUpdatedAt()))
	term.Printf(w, "Version:\t\t%d\n", info.GetStatus().GetNumber())
	term.Printf(w, "Services:\t\t%s\n", strings.Join(serviceNames(info), ", "))
	if len(info.GetData()) > 0 {
		term.Printf(w, "Data:\n%s\n", info.GetData())
	}
}

func (n noun) newRm() *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: fmt.Sprintf("rm %s [%s...]", n.arg, n.arg), Aliases: []string{"remove"}, Short: fmt.Sprintf("Remove one or more %ss", n.Word), Args: usage.MinArgs(1),
		ValidArgsFunction: n.names,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			return n.connect(ctx, func(m methods) error {
				return n.deps.OnEach(args, func(ref string) error {
					_, err := m.remove(ctx, &swarmv1.GetRequest{Id: ref})
					if err == nil {
						term.Printf(n.deps.Out, "%s\n", ref)
					}
					return err
				})
			})
		},
	})
}

type historyOptions struct {
	ref    string
	format term.Format
}

func (n noun) newHistory() *cobra.Command {
	var o historyOptions
	c := command.Verb(&cobra.Command{
		Use: fmt.Sprintf("history [OPTIONS] %s", n.arg), Short: fmt.Sprintf("List the versions of a %s, newest first", n.Word), Args: usage.ExactArgs(1),
		ValidArgsFunction: n.names,
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return n.runHistory(c.Context(), o)
		},
	})
	c.Flags().StringVar(&o.format.Template, "format", "", term.FormatHelp)
	c.Flags().BoolVarP(&o.format.Quiet, "quiet", "q", false, "Only display the numbers of versions")
	return c
}

var versionListing = term.Table{
	Columns: []term.Column{
		{"Version", "VERSION"},
		{"Created", "CREATED"},
		{"CreatedBy", "CREATED BY"},
		{"Size", "SIZE"},
		{"Current", "CURRENT"},
		{"Services", "SERVICES"},
	},
	More: []term.Column{{"CreatedAt", "CREATED AT"}},
	Id:   "Version",
}

func (n noun) runHistory(ctx context.Context, o historyOptions) error {
	return n.connect(ctx, func(m methods) error {
		r, err := m.versions(ctx, &swarmv1.GetRequest{Id: o.ref})
		if err != nil {
			return err
		}
		var rows []term.Row
		for _, v := range slices.Backward(r.GetVersions()) {
			current := ""
			if v.GetCurrent() {
				current = "*"
			}
			rows = append(rows, term.Row{
				"Version": strconv.FormatUint(v.GetNumber(), 10), "Created": term.Ago(n.deps.Now(), v.GetCreatedAt()), "CreatedBy": v.GetActor(),
				"Size": units.HumanSize(float64(v.GetSize())), "Current": current, "Services": strings.Join(v.GetServices(), ","), "CreatedAt": term.Stamp(v.GetCreatedAt()),
			})
		}
		return n.deps.PrintTable(versionListing, o.format, rows)
	})
}
