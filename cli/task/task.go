package task

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/logs"
	"swarm/cli/tasktable"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// New returns the group of commands `swarm task`.
func New(deps *command.Deps) *cobra.Command {
	return command.Group(&cobra.Command{Use: "task", Short: "Look at tasks"}, newLs(deps), newInspect(deps), logs.NewTask(deps))
}

func newLs(deps *command.Deps) *cobra.Command {
	var o tasktable.Options
	c := command.Verb(&cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List tasks", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runLs(c.Context(), deps, o) },
	})
	tasktable.RegisterFlags(c, &o, tasktable.AllFilters)
	return c
}

func runLs(ctx context.Context, deps *command.Deps, o tasktable.Options) error {
	filter, rest, err := flag.ParseFilters(o.Filters, tasktable.AllFilters...)
	if err != nil {
		return err
	}
	return deps.Connect(ctx, func(c command.Client) error {
		for _, ref := range rest["service"] {
			s, err := c.GetService(ctx, &swarmv1.GetRequest{Id: ref})
			if err != nil {
				return err
			}
			filter.ServiceIds = append(filter.ServiceIds, s.Service.Id)
		}
		_, err = tasktable.Print(ctx, deps, c, o, filter)
		return err
	})
}

func newInspect(deps *command.Deps) *cobra.Command {
	return command.NewInspect(deps, command.Inspection{
		Use: "inspect [OPTIONS] TASK [TASK...]", Short: "Display detailed information on one or more tasks", Complete: complete.Tasks(deps),
		Object: func(ctx context.Context, c command.Client, ref string) (term.Object, error) {
			t, err := c.GetTask(ctx, &swarmv1.GetRequest{Id: ref})
			if err != nil {
				return nil, err
			}
			// If the service is gone already, its task is shown without a specification.
			rev, _ := command.FindRevision(ctx, c, t.GetTask().GetServiceId(), t.GetTask().GetRevision())
			return object(t, rev), nil
		},
	})
}

func object(t *swarmv1.TaskInfo, rev *swarmv1.Revision) term.Object {
	task, st := t.GetTask(), t.GetStatus()
	o := term.Stored(task.GetId(), task.GetMeta())
	o = append(o, term.Member{"Name", term.TaskName(t)}, term.Member{"Image", t.GetImage()})
	if rev != nil {
		o = o.With("Spec", rev.GetSpec().GetTaskTemplate())
	}
	o = append(
		o,
		term.Member{"ServiceID", task.GetServiceId()},
		term.Member{"Revision", task.GetRevision()},
		term.Member{"Slot", task.GetSlot()},
		term.Member{"NodeID", task.GetNodeId()},
	)
	status := term.Describe(st)
	status = slices.DeleteFunc(status, func(m term.Member) bool { return m.Name == "Meta" || m.Name == "TaskID" })
	o = append(o, term.Member{"Status", status}, term.Member{"DesiredState", term.EnumWord(task.GetDesiredState())})
	for _, m := range term.Describe(task) {
		switch m.Name {
		case "StartAfter", "Deadline", "Restarts", "Networks", "JobIteration", "AssignedGenericResources", "Replaces":
			o = append(o, m)
		}
	}
	return o
}
