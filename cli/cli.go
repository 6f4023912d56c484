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
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"swarm/cli/command"
	"swarm/cli/image"
	"swarm/cli/network"
	"swarm/cli/node"
	"swarm/cli/service"
	"swarm/cli/task"
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
	Dial func(ctx context.Context, target command.Target) (command.Conn, error)
	// Version is this program's own.
	Version *swarmv1.VersionInfo
	// RunDaemon and RunRuntime run until their context ends.
	RunDaemon  func(context.Context, DaemonOptions) error
	RunRuntime func(context.Context, RuntimeOptions) error
	// StartDaemon starts a daemon in the background, as a service where systemd is, unless one answers already: then it
	// returns nil. It returns when the new one answers. Nil: daemons are not started.
	StartDaemon func(context.Context, command.StartRequest) (*command.StartedDaemon, error)
	// Installer puts the program onto this host and takes it off; nil where it cannot.
	Installer Installer
	// Diagnose looks at this host for `swarm doctor`; nil where it cannot.
	Diagnose func(context.Context, DoctorRequest) ([]Finding, error)
	// Upgrade replaces the program of this host's daemon; nil where there is none.
	Upgrade Upgrader
	// Dev makes playgrounds; nil where there are none.
	Dev Dev
}

// Main runs one command line, without the program's name, and returns the exit code of the process.
func Main(ctx context.Context, deps Deps, args []string) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := New(deps)
	root.SetArgs(args)
	err := root.ExecuteContext(command.WithArgs(ctx, args))
	var exit usage.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case ctx.Err() != nil && command.IsCanceled(err):
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

// New returns the command tree.
func New(deps Deps) *cobra.Command {
	a := &command.Deps{
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
	command.Group(root)
	a.RegisterFlags(root.PersistentFlags())
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage.WithCode(usage.Errorf(c, "%s", usage.FlagReason(err)), usage.CodeBadFlag)
	})
	setHelp(a, root)
	root.AddCommand(newInit(a), newJoin(a), newLeave(a), newSwarmUpdate(a), newJoinToken(a), newInfo(a), newVersion(a, deps.Version), newDoctor(a, deps.Diagnose))
	root.AddCommand(node.New(a), service.New(a), task.New(a), network.New(a), image.New(a), newCredential(a), newLogin(a), newLogout(a), newSystem(a))
	root.AddCommand(task.NewExec(a), newEvents(a), newCompletion(a), newDaemon(a, deps.RunDaemon), newRuntime(a, deps.RunRuntime))
	if deps.Installer != nil {
		root.AddCommand(newInstall(a, deps.Installer), newUninstall(a, deps.Installer))
	}
	if deps.Upgrade != nil {
		root.AddCommand(newUpgrade(a, deps.Upgrade))
	}
	if deps.Dev != nil {
		root.AddCommand(newDev(a, deps.Dev))
	}
	root.InitDefaultHelpFlag()
	silenceHelpCommand(root)
	completeFlags(a, root)
	return root
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
