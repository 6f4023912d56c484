package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	tea "charm.land/bubbletea/v2"
	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/stats"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// New returns the verb `swarm top`.
func New(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "top [TASK|SERVICE[.SLOT]]", Short: "Watch nodes, services and tasks, or display the processes of a task",
		Args: usage.MaxArgs(1), ValidArgsFunction: complete.Tasks(deps),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return stats.Processes(c.Context(), deps, args[0])
			}
			return run(c.Context(), deps)
		},
	})
}

// environment names the variables by which the UI finds out what the terminal can do.
var environment = []string{"TERM", "COLORTERM", "TERM_PROGRAM", "TMUX", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"}

// run shows the UI until the user leaves it.
func run(ctx context.Context, deps *command.Deps) error {
	if term.TerminalOf(deps.In) == nil || term.TerminalOf(deps.Out) == nil {
		return errdefs.ErrFailedPrecondition.WithMessage("swarm top needs a terminal: use `swarm stats --no-stream`, or name a task to see its processes")
	}
	quiet := *deps // A warning on the screen of the UI would destroy it.
	quiet.Err = io.Discard
	return quiet.Connect(ctx, func(c command.Client) error {
		// A manager that does not answer is an ordinary error. Later, the UI waits for it.
		if _, err := c.ListNodes(ctx, &swarmv1.ListRequest{}); err != nil {
			return err
		}
		return show(ctx, &quiet, &source{deps: &quiet, client: c})
	})
}

func show(ctx context.Context, deps *command.Deps, s *source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var env []string
	for _, name := range environment {
		if value := deps.Env(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	in, _ := deps.In.(*os.File)
	out, _ := term.Unescaped(deps.Out).(*os.File)
	if in == nil || out == nil {
		return fmt.Errorf("the terminal is not a file: %w", errdefs.ErrNotImplemented)
	}
	program := tea.NewProgram(newModel(ctx, s.logs),
		tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out), tea.WithEnvironment(slices.Clip(env)), tea.WithoutSignalHandler())
	var g errgroup.Group
	g.Go(func() error {
		s.follow(ctx, program.Send)
		return nil
	})
	_, err := program.Run()
	cancel()
	_ = g.Wait() // It returns no error.
	s.close()
	if errors.Is(err, tea.ErrProgramKilled) && !errors.Is(err, tea.ErrProgramPanic) || errors.Is(err, tea.ErrInterrupted) {
		return nil
	}
	return err
}
