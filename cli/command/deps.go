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

// Deps has what every verb needs: the streams, the clock, and the connection to the daemon that the
// command line names.
type Deps struct {
	// In, Out and Err are the streams of the process. Control characters in text that is printed to
	// Out and Err are escaped.
	In       io.Reader
	Out, Err io.Writer
	// Env reads the environment.
	Env func(string) string
	// Now returns the time from which printed ages count.
	Now func() time.Time
	// Dial connects to a daemon. It may connect lazily; the error then comes with the first call.
	Dial func(ctx context.Context, target Target) (Conn, error)
	// StartDaemon starts a daemon in the background. It returns nil if a daemon answers already. If
	// StartDaemon is nil, verbs start no daemon.
	StartDaemon func(context.Context, StartRequest) (*StartedDaemon, error)

	host       string // flag --host
	credential string // flag --credential
	// acceptStale is the flag --stale.
	acceptStale bool
	// stale is why an answer to this command may be old. It is "" if no answer may be old.
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

// PrintTable prints rows in format f. In JSON, rows that may be old have a field Stale with the
// reason.
func (d *Deps) PrintTable(l term.Table, f term.Format, rows []term.Row) error {
	if d.stale != "" && f.Template == "json" {
		for _, r := range rows {
			r["Stale"] = d.stale
		}
	}
	return l.Print(d.Out, f, rows)
}

// OnEach calls fn for each reference in order, and continues after an error. It returns the errors
// joined. Errors with the same text appear once.
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

// Confirm asks the user whether to continue. It returns true only for the answers "y" and "yes".
// The end of the input means no.
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

// slowAnswer is how long a call takes before ExplainDelay explains the delay.
const slowAnswer = time.Second

// ExplainDelay explains the delay of a call. If the call has not ended after a second, a goroutine
// prints the text that why returns, or nothing if the text is "". The caller calls stop when the
// call has ended; stop ends the goroutine and waits for it.
func (d *Deps) ExplainDelay(ctx context.Context, why func(context.Context) string) (stop func()) {
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
