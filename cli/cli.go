// Package cli is the command line: it turns words into one request to a daemon, and the answer into words again.
//
// It owns the verbs, their flags and help, what they print, and the judgement whether a service has settled. It holds no
// state and decides nothing about the cluster: what a flag means for a service is decided here, whether the cluster can do
// it is the manager's. It reaches daemons only through Deps.Dial and the machine only through Deps, so it compiles for
// every system that a user may sit at. Callers: cmd/swarm, and tests. Goroutines: those of a verb that reads two things at
// once (exec, image load, waiting for a service); each ends with its verb.
//
// Standard output is data, standard error is talk. One file a noun.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"swarm/cli/term"
	"swarm/cli/usage"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

// Deps is what the command line works with.
type Deps struct {
	// In, Out and Err are the process's own. A terminal is recognised when they are files. What is printed is escaped, so that
	// a terminal acts on nothing that others wrote.
	In       io.Reader
	Out, Err io.Writer
	// Env reads the environment; os.Getenv outside tests.
	Env func(string) string
	// Now is the clock of everything that is printed.
	Now func() time.Time
	// Dial connects to a daemon. It may connect lazily; the error then comes with the first call.
	Dial func(ctx context.Context, target Target) (Conn, error)
	// Version is this program's own.
	Version *swarmv1.VersionInfo
	// RunDaemon and RunRuntime run until their context ends.
	RunDaemon  func(context.Context, DaemonOptions) error
	RunRuntime func(context.Context, RuntimeOptions) error
	// StartDaemon starts a daemon in the background, as a service where systemd is, unless one answers already: then it
	// returns nil. It returns when the new one answers. Nil: daemons are not started.
	StartDaemon func(context.Context, StartRequest) (*StartedDaemon, error)
	// Installer puts the program onto this host and takes it off; nil where it cannot.
	Installer Installer
	// Diagnose looks at this host for `swarm doctor`; nil where it cannot.
	Diagnose func(context.Context, DoctorRequest) ([]Finding, error)
	// Upgrade replaces the program of this host's daemon; nil where there is none.
	Upgrade Upgrader
	// Dev makes playgrounds; nil where there are none.
	Dev Dev
}

// Conn is a connection to a daemon.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Main runs one command line, without the program's name, and returns the exit code of the process.
func Main(ctx context.Context, deps Deps, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := New(deps)
	root.SetArgs(args)
	err := root.ExecuteContext(withArgs(ctx, args))
	var exit usage.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case ctx.Err() != nil && isCanceled(err):
		return 130
	}
	err, code := usage.Split(err)
	var value *pflag.InvalidValueError
	if errors.As(err, &value) { // of a flag before the verb, which cobra parses by itself
		err, code = usage.Errorf(root, "%s", usage.FlagReason(err)), usage.CodeBadFlag
	}
	term.Printf(deps.Err, "Error: %s\n", term.ErrorLine(err))
	return code
}

// typed is the key of the words of a command line in its context.
type typed struct{}

// withArgs returns a context in which groups find the words of the command line, which they need for their errors.
func withArgs(ctx context.Context, args []string) context.Context {
	return context.WithValue(ctx, typed{}, args)
}

// unknownFlag is the first flag of the command line that no command up to c has; "" when there is none.
func unknownFlag(c *cobra.Command) string {
	words, _ := c.Context().Value(typed{}).([]string)
	for _, word := range words {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		short := !strings.HasPrefix(word, "--") && name != "" && c.Flags().ShorthandLookup(name[:1]) != nil
		if strings.HasPrefix(word, "-") && name != "" && !short && c.Flags().Lookup(name) == nil {
			return word
		}
	}
	return ""
}

// app is what every verb works with: the streams, the clock, and the daemon that the command line is for.
type app struct {
	// In, Out and Err are the process's own. What is printed to Out and Err is escaped.
	In       io.Reader
	Out, Err io.Writer
	// Env reads the environment.
	Env func(string) string
	// Now is the clock of everything that is printed.
	Now func() time.Time
	// Dial connects to a daemon. It may connect lazily; the error then comes with the first call.
	Dial func(ctx context.Context, target Target) (Conn, error)
	// StartDaemon starts a daemon in the background unless one answers already; then it returns nil. If StartDaemon is nil,
	// daemons are not started.
	StartDaemon func(context.Context, StartRequest) (*StartedDaemon, error)

	host       string // flag --host
	credential string // flag --credential
	// acceptStale is the flag --stale.
	acceptStale bool
	// stale is why answers of this command may be old; "" while they are not.
	stale string
}

// registerFlags adds the flags of the whole program, which name the daemon.
func (a *app) registerFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&a.host, "host", "H", "", "Daemon to connect to (unix:///PATH or tcp://HOST[:PORT]; default $SWARM_HOST, else "+DefaultHost+")")
	flags.StringVar(&a.credential, "credential", "", "File with a client certificate, for tcp hosts (default $SWARM_CREDENTIAL, else the one in your configuration folder)")
	flags.BoolVar(&a.acceptStale, "stale", false, "Show what the manager that is asked knows, without a question to the leader: it may be old")
}

// daemonNamed reports whether the user named a daemon, with -H or SWARM_HOST.
func (a *app) daemonNamed() bool { return a.host != "" || a.Env("SWARM_HOST") != "" }

// New returns the command tree.
func New(deps Deps) *cobra.Command {
	a := &app{
		In: deps.In, Out: printable.NewWriter(deps.Out), Err: printable.NewWriter(deps.Err),
		Env: deps.Env, Now: deps.Now, Dial: deps.Dial, StartDaemon: deps.StartDaemon,
	}
	root := &cobra.Command{
		Use:              "swarm [OPTIONS] COMMAND",
		Short:            "Run containers on a cluster of hosts",
		SilenceErrors:    true,
		SilenceUsage:     true,
		TraverseChildren: true, // so that -H before the verb and a verb's own --host are different flags
		CompletionOptions: cobra.CompletionOptions{
			DisableDefaultCmd: true,
		},
	}
	group(root)
	a.registerFlags(root.PersistentFlags())
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage.WithCode(usage.Errorf(c, "%s", usage.FlagReason(err)), usage.CodeBadFlag)
	})
	a.setHelp(root)
	root.AddCommand(a.newInit(), a.newJoin(), a.newLeave(), a.newSwarmUpdate(), a.newJoinToken(), a.newInfo(), a.newVersion(deps.Version), a.newDoctor(deps.Diagnose))
	root.AddCommand(a.newNode(), a.newService(), a.newTask(), a.newNetwork(), a.newImage(), a.newCredential(), a.newLogin(), a.newLogout(), a.newSystem())
	root.AddCommand(a.newExec(), a.newEvents(), a.newCompletion(), a.newDaemon(deps.RunDaemon), a.newRuntime(deps.RunRuntime))
	if deps.Installer != nil {
		root.AddCommand(a.newInstall(deps.Installer), a.newUninstall(deps.Installer))
	}
	if deps.Upgrade != nil {
		root.AddCommand(a.newUpgrade(deps.Upgrade))
	}
	if deps.Dev != nil {
		root.AddCommand(a.newDev(deps.Dev))
	}
	root.InitDefaultHelpFlag()
	silenceHelpCommand(root)
	a.completeFlags(root)
	return root
}

// group makes c a command that only has subcommands: alone it prints its help, and a word that is none of them is refused
// with the nearest one.
func group(c *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.DisableFlagsInUseLine = true
	c.FParseErrWhitelist.UnknownFlags = true // the unknown word is the news, not the flags after it
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
		if hint := elsewhere[name+args[0]]; hint != "" {
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

// elsewhere says of words that users of Docker type where the thing is, or that it is not there.
var elsewhere = map[string]string{
	"ps":     "tasks are listed by `swarm service ps SERVICE`, `swarm node ps NODE` and `swarm task ls`",
	"logs":   "logs are shown by `swarm service logs SERVICE` and `swarm task logs TASK`",
	"run":    "containers are run by `swarm service create IMAGE`",
	"images": "images are listed by `swarm image ls`",
	"pull":   "images are fetched by `swarm image pull IMAGE`",
	"load":   "images are brought by `swarm image load`",
	"secret": "secrets are not there yet",
	"config": "configs are not there yet",
	"stack":  "stacks are not there yet",
	"volume": "volumes are made with the tasks that name them; commands for them are not there yet",
}

// verb finishes a command that does something.
func verb(c *cobra.Command) *cobra.Command {
	c.DisableFlagsInUseLine = true
	return c
}

func silenceHelpCommand(root *cobra.Command) {
	root.SetHelpCommand(&cobra.Command{
		Use:    "help [COMMAND]",
		Short:  "Help about a command",
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			target, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usage.Errorf(root, "unknown command %q", strings.Join(args, " "))
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	})
}

// list prints rows as f asks for. In JSON, rows that may be old say so in the field Stale.
func (a *app) list(l term.Table, f term.Format, rows []term.Row) error {
	if a.stale != "" && f.Template == "json" {
		for _, r := range rows {
			r["Stale"] = a.stale
		}
	}
	return l.Print(a.Out, f, rows)
}
