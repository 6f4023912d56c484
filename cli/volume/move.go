package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

type moveOptions struct {
	name, node, from                     string
	keep, dryRun, detach, abandon, quiet bool
}

func newMove(deps *command.Deps) *cobra.Command {
	var o moveOptions
	c := command.Verb(&cobra.Command{
		Use: "move [OPTIONS] VOLUME NODE", Short: "Move a volume and its tasks to another node", Args: cobra.ArbitraryArgs,
		Long: "Move a volume and its tasks to another node. The files are copied while the tasks run. Then the tasks stop, what has changed is copied, and they start " +
			"on the new node. The old files are removed when a task runs there. The managers carry the move on if this command ends.",
		ValidArgsFunction: names(deps),
		RunE: func(c *cobra.Command, args []string) error {
			if err := o.set(c, args); err != nil {
				return err
			}
			if o.abandon {
				return runAbandon(c.Context(), deps, o)
			}
			return runMove(c.Context(), deps, o)
		},
	})
	c.Flags().StringVar(&o.from, "from", "", "Node that has the volume, by id or name (needed if several have one of that name)")
	c.Flags().BoolVar(&o.keep, "keep", false, "Leave the files on the old node, where no task uses them any more")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "Show what would be done, and do nothing")
	c.Flags().BoolVar(&o.abandon, "abandon", false, "End a move: the volume stays where it is, and its tasks start there")
	c.Flags().BoolVarP(&o.detach, "detach", "d", false, "Exit when the move has begun")
	c.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Suppress progress")
	return c
}

// set checks the arguments against the flags.
func (o *moveOptions) set(c *cobra.Command, args []string) error {
	want := 2
	if o.abandon {
		want = 1
		if o.keep || o.dryRun || o.detach {
			return usage.Invalidf("--abandon ends a move, so --keep, --dry-run and --detach have no meaning: leave them out")
		}
	}
	if o.dryRun && o.detach {
		return usage.Invalidf("--dry-run begins no move, so --detach has no meaning: leave one of them out")
	}
	if err := usage.ExactArgs(want)(c, args); err != nil {
		return err
	}
	o.name = args[0]
	if !o.abandon {
		o.node = args[1]
	}
	return nil
}

func runAbandon(ctx context.Context, deps *command.Deps, o moveOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		r, err := c.Volumes.AbandonMove(ctx, &swarmv1.AbandonMoveRequest{Name: o.name, Node: o.from})
		if err != nil {
			return err
		}
		if r.GetSwitched() {
			term.Printf(deps.Err, "Volume %s was on its new node already, and stays there. Its old files stay too.\n", o.name)
		}
		term.Printf(deps.Out, "%s\n", o.name)
		return nil
	})
}

func runMove(ctx context.Context, deps *command.Deps, o moveOptions) error {
	return deps.Connect(ctx, func(c command.Client) error {
		stream, err := c.Volumes.MoveVolume(ctx, &swarmv1.MoveVolumeRequest{Name: o.name, Node: o.from, ToNode: o.node, Keep: o.keep, DryRun: o.dryRun})
		if err != nil {
			return err
		}
		view := term.NewView(deps.Err, o.quiet)
		plan := &swarmv1.MoveVolumePlan{}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if m.GetPlan() != nil {
				plan = m.GetPlan()
				printPlan(deps, o, plan)
			}
			if m.GetMove() == nil {
				continue
			}
			if o.detach {
				break
			}
			view.Draw([]string{moveText(plan, m.GetMove())})
		}
		if !o.dryRun {
			term.Printf(deps.Out, "%s\n", o.name)
		}
		return nil
	})
}

// printPlan shows what a move does. It is the result of a dry run, and elsewhere talk.
func printPlan(deps *command.Deps, o moveOptions, plan *swarmv1.MoveVolumePlan) {
	out := deps.Err
	switch {
	case o.dryRun:
		out = deps.Out
	case o.quiet:
		return
	}
	size := "size not known yet"
	if plan.GetMeasured() {
		size = term.Size(plan.GetSize())
	}
	term.Printf(out, "Move volume %s (%s) from %s to %s:\n", o.name, size, plan.GetFrom(), plan.GetTo())
	after := "remove the files on " + plan.GetFrom()
	if plan.GetKeep() {
		after = "keep the files on " + plan.GetFrom()
	}
	if len(plan.GetTasks()) == 0 {
		term.Printf(out, "  1. copy the files; no task uses them\n  2. %s\n", after)
		return
	}
	tasks := strings.Join(plan.GetTasks(), ", ")
	term.Printf(out, "  1. copy the files while %s runs\n  2. stop %s, and copy what has changed\n  3. start it on %s\n  4. %s\n", tasks, tasks, plan.GetTo(), after)
}

// moveText returns the state of a move in one line.
func moveText(plan *swarmv1.MoveVolumePlan, m *swarmv1.VolumeMove) string {
	text := map[swarmv1.VolumeMove_Phase]string{
		swarmv1.VolumeMove_COPYING:  "Copying: " + term.Size(m.GetCopied()) + " sent",
		swarmv1.VolumeMove_STOPPED:  "Tasks stopped, copying the rest: " + term.Size(m.GetCopied()) + " sent",
		swarmv1.VolumeMove_SWITCHED: fmt.Sprintf("On %s: waiting for a task there", plan.GetTo()),
	}[m.GetPhase()]
	if m.GetErr() != "" {
		text += " (trying again: " + m.GetErr() + ")"
	}
	return text
}
