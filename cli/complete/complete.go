package complete

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// Fixed completes the first argument from a fixed set.
func Fixed(values ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

// Choices completes a flag of c from its values. It panics if c has no such flag.
func Choices(c *cobra.Command, flag string, values []string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("cli: " + err.Error()) // The flag does not exist: a bug of the caller.
	}
}

// completionTimeout bounds how long the shell waits after the user has pressed the key.
const completionTimeout = time.Second

// Names completes the names that ask returns. If the daemon does not answer within a second,
// nothing is offered.
func Names(deps *command.Deps, c *cobra.Command, ask func(context.Context, command.Client) ([]string, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	var out []string
	err := deps.Connect(ctx, func(cl command.Client) (err error) {
		out, err = ask(ctx, cl)
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func serviceNames(ctx context.Context, c command.Client) ([]string, error) {
	r, err := c.ListServices(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range r.Services {
		out = append(out, s.GetService().GetName())
	}
	return out, nil
}

// Services completes the names of services.
func Services(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return Names(deps, c, serviceNames)
	}
}

// Nodes completes "self", and nodes by hostname and id.
func Nodes(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListNodes(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			out := []string{"self"}
			for _, n := range r.Nodes {
				out = append(out, term.NodeHostname(n), cobra.CompletionWithDesc(n.Node.Id, term.NodeHostname(n)))
			}
			return out, nil
		})
	}
}

func taskNames(ctx context.Context, c command.Client) ([]string, error) {
	r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{DesiredStates: []swarmv1.TaskState{swarmv1.TaskState_RUNNING}}})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, t := range r.Tasks {
		out = append(out, cobra.CompletionWithDesc(t.Task.GetId(), term.TaskName(t)))
	}
	return out, nil
}

// Tasks completes the ids of tasks whose desired state is RUNNING.
func Tasks(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return Names(deps, c, taskNames)
	}
}

// Images completes the names of images for the first argument. The next arguments of
// `service create` are a command, for which the shell completes names of files.
func Images(deps *command.Deps) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && c.Name() == "create" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return Names(deps, c, func(ctx context.Context, c command.Client) ([]string, error) {
			r, err := c.ListImages(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, i := range r.Images {
				out = append(out, term.ShortImage(i.GetImage().GetName()))
			}
			return out, nil
		})
	}
}
