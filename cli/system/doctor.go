package system

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// DoctorRequest says which host `swarm doctor` examines, and how to reach its daemon.
type DoctorRequest struct {
	StateDir string
	// Info is the daemon's information about itself. It is nil if no daemon answers.
	Info *swarmv1.InfoResponse
	// Conn is a connection to that daemon; nil if no daemon answers.
	Conn command.Conn
}

// Finding is one result of the doctor. Level, Subject and Text are printed unchanged.
type Finding struct {
	Level, Subject, Text string
	// Remedy is what to do; "" if there is nothing to do.
	Remedy string
	// Broken reports whether something does not work. The verb then ends with exit code 1.
	Broken bool
}

type doctorOptions struct {
	stateDir string
	format   term.Format
}

// NewDoctor returns the verb `swarm doctor`.
func NewDoctor(deps *command.Deps, diagnose func(context.Context, DoctorRequest) ([]Finding, error)) *cobra.Command {
	var o doctorOptions
	c := command.Verb(&cobra.Command{
		Use: "doctor [OPTIONS]", Short: "Look for what keeps swarm from working on this host", Args: usage.NoArgs,
		Long: "Find faults that prevent swarm from working on this host, and print a remedy for each.\n\n" +
			"No daemon need run. On a member of a swarm, the ports between this host and the other nodes are tried too, in both " +
			"directions. The exit code is 1 if something does not work.",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), deps, diagnose, o) },
	})
	f := c.Flags()
	f.StringVar(&o.stateDir, "state-dir", "", "Folder of the files that must survive a reboot (default: the daemon's, else "+command.DefaultStateDir+")")
	f.StringVar(&o.format.Template, "format", "", term.FormatHelp)
	f.BoolVarP(&o.format.Quiet, "quiet", "q", false, "Only display findings that have a remedy")
	return c
}

var doctorListing = term.Table{
	Columns: []term.Column{{"Level", "LEVEL"}, {"Subject", "SUBJECT"}, {"Finding", "FINDING"}, {"Remedy", "REMEDY"}},
}

func runDoctor(ctx context.Context, deps *command.Deps, diagnose func(context.Context, DoctorRequest) ([]Finding, error), o doctorOptions) error {
	if o.stateDir != "" && !filepath.IsAbs(o.stateDir) {
		return usage.Invalidf("--state-dir %q is not an absolute path", o.stateDir)
	}
	t, err := deps.Target()
	if err != nil {
		return err
	}
	if t.Network != "unix" {
		return usage.Invalidf("the doctor looks at the host it runs on: run it on %s, without -H", t.Address)
	}
	if diagnose == nil {
		return usage.Invalidf("this program cannot look at hosts")
	}
	conn, err := deps.Dial(ctx, t)
	if err != nil {
		return deps.Explain(err)
	}
	defer conn.Close()
	request := DoctorRequest{StateDir: o.stateDir}
	info, err := swarmv1.NewDaemonClient(conn).Info(ctx, &swarmv1.InfoRequest{})
	switch {
	case err == nil:
		request.Info, request.Conn = info, conn
		if request.StateDir == "" {
			request.StateDir = info.StateDir
		}
	case deps.DaemonNamed() || !command.IsUnavailable(err):
		return deps.Explain(err) // The user named a daemon, so the daemon must answer.
	}
	if request.StateDir == "" {
		request.StateDir = command.DefaultStateDir
	}
	findings, err := diagnose(ctx, request)
	if err != nil {
		return err
	}
	return printFindings(deps, findings, o.format)
}

// printFindings prints the findings. It returns an error with exit code 1 if one is Broken.
func printFindings(deps *command.Deps, findings []Finding, f term.Format) error {
	rows, broken := []term.Row{}, false
	for _, found := range findings {
		broken = broken || found.Broken
		if f.Quiet && found.Remedy == "" {
			continue
		}
		rows = append(rows, term.Row{"Level": found.Level, "Subject": found.Subject, "Finding": found.Text, "Remedy": found.Remedy})
	}
	err := deps.PrintTable(doctorListing, term.Format{Template: f.Template}, rows)
	if broken {
		err = errors.Join(err, usage.ExitError{Code: 1})
	}
	return err
}
