// Package cli is the command line: it turns words into one request to a daemon, and prints the
// answer.
//
// The package owns the root command: Main, New, the flags of the whole program, help, and the
// completion of each flag. The verbs of each noun have a package below cli (service, node, network,
// ...). These packages share command (connection, errors, lists), complete, flag (values and
// parsers), term (output) and usage (errors of command lines). Nouns do not import each other.
//
// The command line holds no state. It decides what a flag means; managers decide whether the
// cluster can do what the command asks. It reaches daemons only through Deps.Dial and the machine
// only through Deps, so it compiles for every system that a user may have. Results go to standard
// output, and warnings, progress and errors to standard error. Callers: cmd/swarm, and tests.
// Goroutines: only those of verbs, which end with their verb.
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

	"swarm/cli/cluster"
	"swarm/cli/command"
	"swarm/cli/credential"
	"swarm/cli/daemon"
	"swarm/cli/data"
	"swarm/cli/dev"
	"swarm/cli/image"
	"swarm/cli/network"
	"swarm/cli/node"
	"swarm/cli/registry"
	"swarm/cli/service"
	"swarm/cli/stats"
	"swarm/cli/system"
	"swarm/cli/task"
	"swarm/cli/term"
	"swarm/cli/top"
	"swarm/cli/usage"
	"swarm/cli/volume"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

// Deps is what the command line needs from its surroundings.
type Deps struct {
	// In, Out and Err are the streams of the process. A terminal is recognised if they are files.
	// Control characters in printed text are escaped, so that text from containers and other users
	// cannot control the terminal.
	In       io.Reader
	Out, Err io.Writer
	// Env reads the environment; os.Getenv outside of tests.
	Env func(string) string
	// Now returns the time from which printed ages count.
	Now func() time.Time
	// Dial connects to a daemon. It may connect lazily: the error then comes with the first call.
	Dial func(ctx context.Context, target command.Target) (command.Conn, error)
	// Version is the version of this program.
	Version *swarmv1.VersionInfo
	// RunDaemon and RunRuntime run the daemon and the container runtime until their context ends.
	RunDaemon  func(context.Context, daemon.Options) error
	RunRuntime func(context.Context, daemon.RuntimeOptions) error
	// StartDaemon starts a daemon in the background, as a service if systemd is the init, and
	// returns when it answers. It returns nil if one answers already. If StartDaemon is nil,
	// daemons are not started.
	StartDaemon func(context.Context, command.StartRequest) (*command.StartedDaemon, error)
	// Installer installs the program on this host and removes it; nil where that is not possible.
	Installer daemon.Installer
	// Diagnose examines this host for `swarm doctor`; nil where that is not possible.
	Diagnose func(context.Context, system.DoctorRequest) ([]system.Finding, error)
	// Upgrade replaces the program of this host's daemon; nil where that is not possible.
	Upgrade daemon.Upgrader
	// Dev makes clusters of hosts on this machine; nil where that is not possible.
	Dev dev.Maker
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
	if err != nil && strings.Contains(err.Error(), "string field contains invalid UTF-8") { // gRPC does not send such a request
		err = usage.NotUTF8(args)
	}
	code, err := usage.ExitCode(err)
	var value *pflag.InvalidValueError
	if errors.As(err, &value) { // of a flag before the verb, which cobra parses by itself
		err, code = usage.Errorf(root, "%s", usage.FlagReason(err)), usage.CodeBadFlag
	}
	term.Printf(deps.Err, "Error: %s\n", term.ErrorLine(err))
	return code
}

// New returns the command tree.
func New(deps Deps) *cobra.Command {
	d := &command.Deps{
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
	d.RegisterFlags(root.PersistentFlags())
	root.SetIn(d.In)
	root.SetOut(d.Out)
	root.SetErr(d.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage.WithCode(usage.Errorf(c, "%s", usage.FlagReason(err)), usage.CodeBadFlag)
	})
	setHelp(d, root)
	root.AddCommand(cluster.NewInit(d), cluster.NewJoin(d), cluster.NewLeave(d), cluster.NewUpdate(d), cluster.NewJoinToken(d), system.NewInfo(d), system.NewVersion(d, deps.Version), system.NewDoctor(d, deps.Diagnose))
	root.AddCommand(node.New(d), service.New(d), task.New(d), network.New(d), data.NewSecret(d), data.NewConfig(d), volume.New(d), image.New(d), credential.New(d), registry.NewLogin(d), registry.NewLogout(d), system.New(d))
	root.AddCommand(task.NewExec(d), task.NewForward(d), system.NewEvents(d), stats.New(d), top.New(d), newCompletion(d), daemon.New(deps.RunDaemon), daemon.NewRuntime(deps.RunRuntime))
	if deps.Installer != nil {
		root.AddCommand(daemon.NewInstall(d, deps.Installer), daemon.NewUninstall(d, deps.Installer))
	}
	if deps.Upgrade != nil {
		root.AddCommand(daemon.NewUpgrade(d, deps.Upgrade))
	}
	if deps.Dev != nil {
		root.AddCommand(dev.New(d, deps.Dev))
	}
	root.InitDefaultHelpFlag()
	silenceHelpCommand(root)
	completeFlags(d, root)
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
