package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// usageError is a command line that cannot be understood: one line that ends with where to read on.
func usageError(c *cobra.Command, format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...) + fmt.Sprintf(" (see '%s --help')", c.CommandPath()))
}

// flagError is what is wrong with a flag, in the words of this program also for the values that pflag parses.
func flagError(err error) string {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return strings.TrimSuffix(err.Error(), "\n")
	}
	kind, quoted := bad.GetFlag().Value.Type(), fmt.Sprintf("%q", bad.GetValue())
	name := "--" + bad.GetFlag().Name
	hints := map[string]string{
		"uint64": "use a whole number, 0 or more", "uint32": "use a whole number, 0 or more", "uint16": "use a whole number, 0 or more", "uint": "use a whole number, 0 or more",
		"int64": "use a whole number", "int": "use a whole number", "float64": "use a number", "bool": "use true or false",
		"duration": "use a duration such as 500ms, 90s, 5m or 1h30m",
	}
	hint, ok := hints[kind]
	switch {
	case ok && errors.Is(bad, strconv.ErrRange):
		return fmt.Sprintf("invalid argument %s for %q flag: it is out of range", quoted, name)
	case ok:
		return fmt.Sprintf("invalid argument %s for %q flag: %s", quoted, name, hint)
	case strings.Contains(bad.Unwrap().Error(), quoted):
		return name + ": " + bad.Unwrap().Error() // It has the value already.
	}
	return strings.TrimSuffix(err.Error(), "\n")
}

// invalid is a value that can be nothing sensible, whatever the cluster.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// exactArgs, minArgs and maxArgs word cobra's checks as one line.
func exactArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return argsError(c, "exactly "+arguments(n), len(args))
	}
}

func minArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return argsError(c, "at least "+arguments(n), len(args))
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return argsError(c, "at most "+arguments(n), len(args))
	}
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return argsError(c, "no arguments", len(args))
}

func argsError(c *cobra.Command, want string, got int) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("'%s' takes %s, got %d: usage is %s", c.CommandPath(), want, got, c.UseLine()))
}

func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// The class of an error, whether the connection translates statuses or not.

func isNotFound(err error) bool { return errdefs.IsNotFound(err) || code(err) == codes.NotFound }

func isStale(err error) bool {
	return errdefs.IsAborted(err) || errdefs.IsConflict(err) || code(err) == codes.Aborted
}

func isUnavailable(err error) bool {
	return errdefs.IsUnavailable(err) || code(err) == codes.Unavailable
}

func isUnauthorized(err error) bool {
	return errdefs.IsUnauthorized(err) || code(err) == codes.Unauthenticated
}

func isUnimplemented(err error) bool {
	return errdefs.IsNotImplemented(err) || code(err) == codes.Unimplemented
}

func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || code(err) == codes.Canceled
}

func code(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return codes.Unknown
}

// errorLine is the one line that a user reads of an error.
func errorLine(err error) string {
	text := err.Error()
	if s, ok := status.FromError(err); ok && strings.HasPrefix(text, "rpc error: ") {
		text = s.Message()
	}
	lines := strings.FieldsFunc(withoutClass(text), func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// withoutClass is a text without the name of its error's class at its end: that is for programs.
func withoutClass(text string) string {
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrAlreadyExists, errdefs.ErrUnavailable, errdefs.ErrAborted,
		errdefs.ErrConflict, errdefs.ErrInternal, errdefs.ErrUnknown, errdefs.ErrNotImplemented,
	} {
		if rest, ok := strings.CutSuffix(text, ": "+class.Error()); ok {
			return withoutClass(rest)
		}
	}
	return text
}

// plainError is an error with the words that users read, for where several are told at once.
type plainError struct{ error }

func (e plainError) Error() string { return errorLine(e.error) }
func (e plainError) Unwrap() error { return e.error }

// dialFailure matches how dialing and handshakes fail, in gRPC's words and in the kernel's.
var dialFailure = regexp.MustCompile(`(?i)error while dialing|is not running on this host|dial (unix|tcp)|connection refused|no such file or directory|no route to host|network is unreachable|i/o timeout|reading server preface`)

// silence matches how a connection ends that the other side has taken and then said nothing on.
var silence = regexp.MustCompile(`^(raw-)?read (unix|tcp) .*use of closed network connection|keepalive ping failed`)

// explain turns the error of a call into what the user can act on.
func (a *app) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case isUnavailable(err) && silence.MatchString(errorLine(err)):
		t, _ := a.target()
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the swarm daemon at %s does not answer: it hangs, or its host is overloaded; see its log, or restart it", t))
	case isUnavailable(err) && a.notDialled(err.Error()) && !strings.Contains(err.Error(), "registry "): // which a daemon could not reach
		t, _ := a.target()
		hint := "is it running? (`swarm init` and `swarm join` start it, `swarm daemon` runs it in the foreground)"
		switch {
		case strings.Contains(err.Error(), "permission denied"):
			hint = "permission denied: run as root, or as a member of the socket's group"
		case t.Network != "unix":
			hint = unreached(errorLine(err), t)
		}
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("cannot reach the swarm daemon at %s: %s", t, hint))
	case isUnimplemented(err):
		return errdefs.ErrNotImplemented.WithMessage("the daemon does not know this request: it is older than this program, or this node is not a swarm manager; use -H to name a manager (" + errorLine(err) + ")")
	}
	return err
}

// transportFailure matches how package transport words a failed dial, with the address before it.
var transportFailure = regexp.MustCompile(`(\S+): (connection refused: is swarm|no route to it: |no answer: )`)

// notDialled reports whether an error is of the connection to the daemon. A daemon tells in the
// words of package transport of other hosts too.
func (a *app) notDialled(text string) bool {
	if m := transportFailure.FindStringSubmatch(text); m != nil {
		t, _ := a.target()
		return strings.HasSuffix(m[1], t.Address)
	}
	return dialFailure.MatchString(text)
}

// unreached is why a connection by TCP failed, with what to check: the words that package transport
// puts after the address.
func unreached(text string, t Target) string {
	if _, why, ok := strings.Cut(text, t.Address+": "); ok {
		return strings.TrimSuffix(why, `"`)
	}
	return "is it running there, and does a firewall let port " + t.port() + " through? (" + lastClause(text) + ")"
}

func lastClause(s string) string {
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return strings.Trim(s[i+2:], `"`)
	}
	return strings.Trim(s, `"`)
}
