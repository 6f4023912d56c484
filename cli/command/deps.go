package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"swarm/cli/term"
	"swarm/internal/pause"
)

// Deps is what every verb works with: the streams, the clock, and the daemon that the command line
// is for.
type Deps struct {
	// In, Out and Err are the process's own. What is printed to Out and Err is escaped.
	In       io.Reader
	Out, Err io.Writer
	// Env reads the environment.
	Env func(string) string
	// Now is the clock of everything that is printed.
	Now func() time.Time
	// Dial connects to a daemon. It may connect lazily; the error then comes with the first call.
	Dial func(ctx context.Context, target Target) (Conn, error)
	// StartDaemon starts a daemon in the background unless one answers already; then it returns
	// nil. If StartDaemon is nil, daemons are not started.
	StartDaemon func(context.Context, StartRequest) (*StartedDaemon, error)

	host       string // flag --host
	credential string // flag --credential
	// acceptStale is the flag --stale.
	acceptStale bool
	// stale is why answers of this command may be old; "" while they are not.
	stale string
}

// RegisterFlags adds the flags of the whole program, which name the daemon.
func (d *Deps) RegisterFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&d.host, "host", "H", "", "Daemon to connect to (unix:///PATH or tcp://HOST[:PORT]; default $SWARM_HOST, else "+DefaultHost+")")
	flags.StringVar(&d.credential, "credential", "", "File with a client certificate, for tcp hosts (default $SWARM_CREDENTIAL, else the one in your configuration folder)")
	flags.BoolVar(&d.acceptStale, "stale", false, "Show what the manager that is asked knows, without a question to the leader: it may be old")
}

// DaemonNamed reports whether the user named a daemon, with -H or SWARM_HOST.
func (d *Deps) DaemonNamed() bool { return d.host != "" || d.Env("SWARM_HOST") != "" }

// PrintTable prints rows as f says. In JSON, rows that may be old have a field Stale with the
// reason.
func (d *Deps) PrintTable(l term.Table, f term.Format, rows []term.Row) error {
	if d.stale != "" && f.Template == "json" {
		for _, r := range rows {
			r["Stale"] = d.stale
		}
	}
	return l.Print(d.Out, f, rows)
}

// OnEach runs fn on each reference, in their order, also after one failed. It returns the errors
// joined, each different text once.
func (d *Deps) OnEach(refs []string, fn func(ref string) error) error {
	var errs []error
	for _, ref := range refs {
		if err := fn(ref); err != nil {
			said := plainError{d.Explain(err)}
			if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == said.Error() }) {
				errs = append(errs, said)
			}
		}
	}
	return errors.Join(errs...)
}

// Confirm asks the user whether to continue. Any answer but "y" or "yes" is a no, and so is the end
// of the input.
func (d *Deps) Confirm() bool {
	fmt.Fprint(d.Err, "Are you sure you want to continue? [y/N] ")
	answer, _ := bufio.NewReader(d.In).ReadString('\n') // the end of input is no
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
}

// Warn prints each text as a line that begins with "Warning: " to standard error.
func (d *Deps) Warn(warnings []string) {
	for _, w := range warnings {
		term.Printf(d.Err, "Warning: %s\n", w)
	}
}

// slowAnswer is how long a call may take before SaySlow explains the delay.
const slowAnswer = time.Second

// SaySlow prints why a call takes so long, once it has taken a second: the text that why returns,
// nothing if that is "". The caller calls the returned function when the call has ended; it waits
// for the goroutine that SaySlow starts.
func (d *Deps) SaySlow(ctx context.Context, why func(context.Context) string) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if pause.For(ctx, slowAnswer) != nil {
			return
		}
		if text := why(ctx); text != "" {
			term.Printf(d.Err, "%s\n", text)
		}
	}()
	return func() { cancel(); <-done }
}
