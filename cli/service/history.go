package service

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type historyOptions struct {
	ref     string
	format  term.Format
	noTrunc bool
}

func newHistory(deps *command.Deps) *cobra.Command {
	var o historyOptions
	c := command.Verb(&cobra.Command{
		Use: "history [OPTIONS] SERVICE", Short: "List the revisions of a service, newest first", Args: usage.ExactArgs(1), ValidArgsFunction: complete.Services(deps),
		RunE: func(c *cobra.Command, args []string) error {
			o.ref = args[0]
			return runHistory(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.format.Template, "format", "", term.FormatHelp)
	c.Flags().BoolVarP(&o.format.Quiet, "quiet", "q", false, "Only display the numbers of revisions")
	c.Flags().BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	return c
}

var revisionListing = term.Table{
	Columns: []term.Column{
		{"Revision", "REVISION"},
		{"Created", "CREATED"},
		{"CreatedBy", "CREATED BY"},
		{"Image", "IMAGE"},
		{"Replicas", "REPLICAS"},
		{"Current", "CURRENT"},
		{"Changes", "CHANGES"},
		{"Message", "MESSAGE"},
	},
	More: []term.Column{{"CreatedAt", "CREATED AT"}, {"Mode", "MODE"}, {"Template", "TEMPLATE"}},
	Id:   "Revision",
}

func runHistory(ctx context.Context, deps *command.Deps, o historyOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: o.ref})
		if err != nil {
			return err
		}
		r, err := c.ListRevisions(ctx, &swarmv1.GetRequest{Id: s.GetService().GetId()})
		if err != nil {
			return err
		}
		slices.SortFunc(r.Revisions, func(a, b *swarmv1.Revision) int { return int(b.GetNumber()) - int(a.GetNumber()) })
		rows := make([]term.Row, 0, len(r.Revisions))
		for i, rev := range r.Revisions {
			row := revisionRow(s.GetService(), rev, o.noTrunc, deps.Now())
			if i+1 < len(r.Revisions) {
				row["Changes"] = changesText(changedFields(r.Revisions[i+1].GetSpec(), rev.GetSpec()), o.noTrunc)
			}
			rows = append(rows, row)
		}
		return deps.PrintTable(revisionListing, o.format, rows)
	})
}

func revisionRow(s *swarmv1.Service, rev *swarmv1.Revision, noTrunc bool, now time.Time) term.Row {
	image := rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage()
	if !noTrunc {
		image = term.ShortImage(image)
	}
	replicas := ""
	switch m := rev.GetSpec().GetMode().GetMode().(type) {
	case *swarmv1.ServiceMode_Replicated:
		replicas = fmt.Sprint(m.Replicated.GetReplicas())
	case *swarmv1.ServiceMode_ReplicatedJob:
		replicas = fmt.Sprint(m.ReplicatedJob.GetTotalCompletions())
	}
	current := ""
	switch rev.GetNumber() {
	case s.GetRevision():
		current = "current"
	case s.GetPreviousRevision():
		current = "previous" // A rollback returns to this revision.
	}
	return term.Row{
		"Revision": fmt.Sprint(rev.GetNumber()), "Created": term.Ago(now, rev.GetMeta().GetCreatedAt()), "CreatedAt": term.Stamp(rev.GetMeta().GetCreatedAt()),
		"CreatedBy": rev.GetActor(), "Image": image, "Replicas": replicas, "Mode": term.ModeWord(rev.GetSpec().GetMode()),
		"Current": current, "Changes": "", "Message": rev.GetMessage(), "Template": fmt.Sprint(rev.GetTemplate()),
	}
}
