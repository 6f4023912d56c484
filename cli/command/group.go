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

	"push":      "images are uploaded by `swarm image push IMAGE`",
	"rmi":       "images are removed by `swarm image rm IMAGE`",
	"tag":       "images are tagged by `swarm image tag SOURCE TARGET`",
	"build":     "nodes build no images: use `docker save IMAGE | swarm image load`",
	"import":    "images are loaded by `swarm image load`; `docker import` makes one of a file system",
	"ls":        "services are listed by `swarm service ls`",
	"rm":        "services are removed by `swarm service rm SERVICE`",
	"create":    "services are created by `swarm service create IMAGE`",
	"scale":     "services are scaled by `swarm service scale SERVICE=REPLICAS`",
	"rollback":  "services are rolled back by `swarm service rollback SERVICE`",
	"inspect":   "use the inspect of the object, such as `swarm service inspect` and `swarm task inspect`",
	"stop":      "a service is stopped by `swarm service scale SERVICE=0`",
	"restart":   "a service is restarted by `swarm service update --force SERVICE`",
	"kill":      "a service is stopped by `swarm service scale SERVICE=0`",
	"start":     "a service is started by `swarm service scale SERVICE=REPLICAS`",
	"search":    "registries are searched by `docker search`; `swarm image pull IMAGE` fetches an image",
	"container": "containers belong to tasks: see `swarm task --help` and `swarm service --help`",
	"context":   "a cluster is named by -H and --credential, or $SWARM_HOST and $SWARM_CREDENTIAL",
	"swarm":     "leave the word swarm out: `swarm init`, `swarm join`, `swarm join-token`",

	"ca":         "the authority of the cluster cannot be shown or replaced yet",
	"unlock":     "managers cannot be locked yet",
	"unlock-key": "managers cannot be locked yet",

	"image build":        "nodes build no images: use `docker save IMAGE | swarm image load`",
	"image import":       "use `docker import`, then `docker save IMAGE | swarm image load`",
	"network connect":    "a task has the networks of its service: use `swarm service update --network-add NETWORK SERVICE`",
	"network disconnect": "a task has the networks of its service: use `swarm service update --network-rm NETWORK SERVICE`",
	"service start":      "use `swarm service scale SERVICE=REPLICAS`",
	"service stop":       "use `swarm service scale SERVICE=0`",
	"service restart":    "use `swarm service update --force SERVICE`",
	"volume update":      "there are no cluster volumes; other volumes cannot be changed in docker either",
}

// Verb completes a command that is no group, and returns it. The text of Use has "[OPTIONS]"
// already, so cobra must not add its own.
func Verb(c *cobra.Command) *cobra.Command {
	c.DisableFlagsInUseLine = true
	return c
}
