package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"swarm/cli/usage"
)

// argsKey is the key under which a context has the words of the command line.
type argsKey struct{}

// WithArgs returns a context that carries the words of the command line. Group needs them to name
// an unknown flag.
func WithArgs(ctx context.Context, args []string) context.Context {
	return context.WithValue(ctx, argsKey{}, args)
}

// unknownFlag returns the first flag of the command line that neither c nor a command above c has.
// It returns "" if there is none.
func unknownFlag(c *cobra.Command) string {
	words, _ := c.Context().Value(argsKey{}).([]string)
	for _, word := range words {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		short := !strings.HasPrefix(word, "--") && name != "" && c.Flags().ShorthandLookup(name[:1]) != nil
		if strings.HasPrefix(word, "-") && name != "" && !short && c.Flags().Lookup(name) == nil {
			return word
		}
	}
	return ""
}

// Group makes c a command that only has subcommands, adds them and returns c. Without further
// words, c prints its help. A word that is no subcommand is refused, with the nearest subcommand as
// a hint.
func Group(c *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.DisableFlagsInUseLine = true
	c.FParseErrWhitelist.UnknownFlags = true // The error is about the unknown word, not about the flags after it.
	c.SuggestionsMinimumDistance = 2
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			if flag := unknownFlag(c); flag != "" {
				return usage.WithCode(usage.Errorf(c, "unknown flag: %s", flag), usage.CodeBadFlag)
			}
			return c.Help()
		}
		name := strings.TrimSpace(strings.TrimPrefix(c.CommandPath(), c.Root().Name()))
		if name != "" {
			name += " "
		}
		msg := fmt.Sprintf("unknown command %q", name+args[0])
		if hint := dockerHints[name+args[0]]; hint != "" {
			msg += ": " + hint
		} else if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			nearest := max(slices.IndexFunc(near, func(s string) bool { return strings.HasPrefix(args[0], s) }), 0)
			msg += fmt.Sprintf(": did you mean %q?", name+near[nearest])
		}
		return usage.Errorf(c, "%s", msg)
	}
	c.AddCommand(sub...)
	return c
}

// dockerHints has hints for commands of Docker that this program does not have: the command to use
// instead, or that there is none yet.
var dockerHints = map[string]string{
	"ps":     "tasks are listed by `swarm service ps SERVICE`, `swarm node ps NODE` and `swarm task ls`",
	"logs":   "logs are shown by `swarm service logs SERVICE` and `swarm task logs TASK`",
	"run":    "containers are run by `swarm service create IMAGE`",
	"images": "images are listed by `swarm image ls`",
	"pull":   "images are fetched by `swarm image pull IMAGE`",
	"load":   "images are loaded by `swarm image load`",
	"stack":  "stacks are not supported yet",
}

// Verb completes a command that is no group, and returns it. The text of Use has "[OPTIONS]"
// already, so cobra must not add its own.
func Verb(c *cobra.Command) *cobra.Command {
	c.DisableFlagsInUseLine = true
	return c
}
