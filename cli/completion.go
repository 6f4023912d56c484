package cli

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/command"
	"swarm/cli/complete"
	"swarm/cli/flag"
	"swarm/cli/usage"
)

func newCompletion(deps *command.Deps) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "completion (bash|zsh|fish)", Short: "Print the completion script of a shell", Args: usage.ExactArgs(1),
		Long: `Print the completion script of a shell.

  bash:  source <(swarm completion bash)
  zsh:   swarm completion zsh > "${fpath[1]}/_swarm"
  fish:  swarm completion fish > ~/.config/fish/completions/swarm.fish`,
		ValidArgsFunction: complete.Fixed("bash", "zsh", "fish"),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(deps.Out, true)
			case "zsh":
				return c.Root().GenZshCompletion(deps.Out)
			case "fish":
				return c.Root().GenFishCompletion(deps.Out, true)
			}
			return usage.Errorf(c, "unknown shell %q: use bash, zsh or fish", args[0])
		},
	})
}

// fileFlags take the name of a file or a folder.
var fileFlags = []string{"credential", "env-file", "token-file", "input", "root", "state-dir", "run-dir", "registry-certs-dir", "log-file", "containerd-address"}

// completeFlags gives a completion to each flag of c and of the commands below c, because a shell
// completes names of files for a flag that has no completion.
func completeFlags(deps *command.Deps, c *cobra.Command) {
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if _, has := c.GetFlagCompletionFunc(f.Name); has || slices.Contains(fileFlags, f.Name) {
			return
		}
		if err := c.RegisterFlagCompletionFunc(f.Name, flagCompletion(deps, f)); err != nil {
			panic("cli: " + err.Error())
		}
	})
	for _, sub := range c.Commands() {
		completeFlags(deps, sub)
	}
}

func flagCompletion(deps *command.Deps, f *pflag.Flag) cobra.CompletionFunc {
	if filter, ok := f.Value.(*flag.Filter); ok {
		return beginnings("=", filter.Keys)
	}
	switch f.Name {
	case "network", "network-add":
		return complete.Networks(deps, complete.IsForServices)
	case "network-rm":
		return complete.Networks(deps, complete.IsCustom)
	case "constraint", "constraint-add":
		return beginnings("", []string{"node.id==", "node.hostname==", "node.role==", "node.platform.os==", "node.platform.arch==", "node.labels."})
	case "placement-pref", "placement-pref-add":
		return beginnings("", []string{"spread=node.labels."})
	case "node", "to-node":
		return complete.Nodes(deps)
	case "image":
		return complete.Images(deps)
	case "format":
		return cobra.FixedCompletions([]string{"json", "table"}, cobra.ShellCompDirectiveNoFileComp)
	}
	return cobra.NoFileCompletions
}

// beginnings completes words to which the user adds more, such as "node=". No blank follows them.
func beginnings(end string, words []string) cobra.CompletionFunc {
	out := make([]string, 0, len(words))
	for _, w := range words {
		out = append(out, w+end)
	}
	return cobra.FixedCompletions(out, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)
}
