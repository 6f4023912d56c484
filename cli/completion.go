package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/flag"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

func (a *app) newCompletion() *cobra.Command {
	return verb(&cobra.Command{
		Use: "completion (bash|zsh|fish)", Short: "Print the completion script of a shell", Args: usage.ExactArgs(1),
		Long: `Print the completion script of a shell.

  bash:  source <(swarm completion bash)
  zsh:   swarm completion zsh > "${fpath[1]}/_swarm"
  fish:  swarm completion fish > ~/.config/fish/completions/swarm.fish`,
		ValidArgsFunction: fixed("bash", "zsh", "fish"),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(a.Out, true)
			case "zsh":
				return c.Root().GenZshCompletion(a.Out)
			case "fish":
				return c.Root().GenFishCompletion(a.Out, true)
			}
			return usage.Errorf(c, "unknown shell %q: use bash, zsh or fish", args[0])
		},
	})
}

// fixed completes the first argument from a fixed set.
func fixed(values ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeChoices completes a flag from its values.
func completeChoices(c *cobra.Command, flag string, values []string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("cli: " + err.Error()) // the flag is not there: a typing error of ours
	}
}

// fileFlags take the name of a file, or of a folder.
var fileFlags = []string{"credential", "env-file", "token-file", "input", "root", "state-dir", "run-dir", "registry-certs-dir", "log-file", "containerd-address"}

// completeFlags gives every flag of a command and of those below it a completion of its own: a shell completes names of
// files where there is none.
func (a *app) completeFlags(c *cobra.Command) {
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if _, has := c.GetFlagCompletionFunc(f.Name); has || slices.Contains(fileFlags, f.Name) {
			return
		}
		if err := c.RegisterFlagCompletionFunc(f.Name, a.flagCompletion(f)); err != nil {
			panic("cli: " + err.Error())
		}
	})
	for _, sub := range c.Commands() {
		a.completeFlags(sub)
	}
}

func (a *app) flagCompletion(f *pflag.Flag) cobra.CompletionFunc {
	if filter, ok := f.Value.(*flag.Filter); ok {
		return beginnings("=", filter.Keys)
	}
	switch f.Name {
	case "network", "network-add":
		return a.completeNetworks(isForServices)
	case "network-rm":
		return a.completeNetworks(isCustom)
	case "constraint", "constraint-add":
		return beginnings("", []string{"node.id==", "node.hostname==", "node.role==", "node.platform.os==", "node.platform.arch==", "node.labels."})
	case "placement-pref", "placement-pref-add":
		return beginnings("", []string{"spread=node.labels."})
	case "node":
		return a.completeNodes()
	case "image":
		return a.completeImages()
	case "format":
		return cobra.FixedCompletions([]string{"json", "table"}, cobra.ShellCompDirectiveNoFileComp)
	}
	return cobra.NoFileCompletions
}

// beginnings completes what users go on with.
func beginnings(end string, words []string) cobra.CompletionFunc {
	out := make([]string, 0, len(words))
	for _, w := range words {
		out = append(out, w+end)
	}
	return cobra.FixedCompletions(out, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)
}

// completionTimeout bounds how long a key press may take; a daemon that does not answer completes nothing.
const completionTimeout = time.Second

// names asks the daemon what there is.
func (a *app) names(c *cobra.Command, ask func(context.Context, client) ([]string, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	var out []string
	err := a.with(ctx, func(cl client) (err error) {
		out, err = ask(ctx, cl)
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func serviceNames(ctx context.Context, c client) ([]string, error) {
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

func (a *app) completeServices() cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.names(c, serviceNames)
	}
}

func (a *app) completeScale() cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if strings.Contains(word, "=") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := a.names(c, func(ctx context.Context, c client) ([]string, error) {
			r, err := c.ListServices(ctx, &swarmv1.ListRequest{})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, s := range r.Services {
				if setReplicas(s.GetRevision().GetSpec().CloneVT(), 0) == nil { // The others cannot be scaled.
					out = append(out, s.GetService().GetName()+"=")
				}
			}
			return out, nil
		})
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
}

func (a *app) completeNodes() cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.names(c, func(ctx context.Context, c client) ([]string, error) {
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

func taskNames(ctx context.Context, c client) ([]string, error) {
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

func (a *app) completeTasks() cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.names(c, taskNames)
	}
}

// completeExec offers slots by name, which people remember, before ids.
func (a *app) completeExec() cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.names(c, func(ctx context.Context, c client) ([]string, error) {
			r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{DesiredStates: []swarmv1.TaskState{swarmv1.TaskState_RUNNING}}})
			if err != nil {
				return nil, err
			}
			var out []string
			for _, t := range r.Tasks {
				out = append(out, cobra.CompletionWithDesc(term.TaskName(t), term.TaskNode(t)))
			}
			return out, nil
		})
	}
}

func (a *app) completeImages() cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && c.Name() == "create" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.names(c, func(ctx context.Context, c client) ([]string, error) {
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
