package command

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/cli/term"
	"swarm/cli/usage"
)

// The functions below return the class of an error. They know gRPC statuses and the error classes
// of errdefs, because only some connections translate statuses into classes.

// IsNotFound reports whether the object that a call named does not exist.
func IsNotFound(err error) bool { return errdefs.IsNotFound(err) || code(err) == codes.NotFound }

// IsStale reports whether an edit was refused because another write came first.
func IsStale(err error) bool {
	return errdefs.IsAborted(err) || code(err) == codes.Aborted
}

// IsFailedPrecondition reports whether the state of an object does not permit the call.
func IsFailedPrecondition(err error) bool {
	return errdefs.IsFailedPrecondition(err) || code(err) == codes.FailedPrecondition
}

// IsUnavailable reports whether a call may succeed later, or by another daemon.
func IsUnavailable(err error) bool {
	return errdefs.IsUnavailable(err) || code(err) == codes.Unavailable
}

// IsOutOfRange reports whether a daemon does not know the place at which a call shall continue.
func IsOutOfRange(err error) bool {
	return errdefs.IsOutOfRange(err) || code(err) == codes.OutOfRange
}

// IsUnauthorized reports whether credentials were missing or refused.
func IsUnauthorized(err error) bool {
	return errdefs.IsUnauthorized(err) || code(err) == codes.Unauthenticated
}

// IsUnimplemented reports whether the daemon does not know the call.
func IsUnimplemented(err error) bool {
	return errdefs.IsNotImplemented(err) || code(err) == codes.Unimplemented
}

// IsCanceled reports whether the caller gave up.
func IsCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || code(err) == codes.Canceled
}

func code(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return codes.Unknown
}

// plainError is an error whose text is that of term.ErrorLine. Lists of several errors have them.
type plainError struct{ error }

// Error implements error.
func (e plainError) Error() string { return term.ErrorLine(e.error) }

// Unwrap returns the error whose text is changed.
func (e plainError) Unwrap() error { return e.error }

// dialFailure matches the errors of gRPC and of the kernel for a failed dial or handshake.
var dialFailure = regexp.MustCompile(`(?i)error while dialing|is not running on this host|dial (unix|tcp)|connection refused|no such file or directory|no route to host|network is unreachable|i/o timeout|reading server preface`)

// noAnswer matches the error of a connection that the daemon accepted and then did not answer.
var noAnswer = regexp.MustCompile(`^(raw-)?read (unix|tcp) .*use of closed network connection|keepalive ping failed`)

// closedEarly matches the error of a connection that was open when the daemon ended, or that the
// daemon closed at once. A daemon does so if it has too many connections.
var closedEarly = regexp.MustCompile(`^(transport: failed to write [^:]*: )?(((raw-)?(read|write) (unix|tcp) |(read|write): ).*)?(connection reset by peer|broken pipe|EOF)$`)

// Explain turns the error of a call into one on which the user can act. It says which daemon cannot
// be reached and why, or that the daemon is too old for the call. Explain returns other errors, and
// nil, unchanged.
func (d *Deps) Explain(err error) error {
	switch {
	case err == nil:
		return nil
	case IsUnavailable(err) && noAnswer.MatchString(term.ErrorLine(err)):
		t, _ := d.Target()
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the swarm daemon at %s does not answer: it hangs, or its host is overloaded; see its log, or restart it", t))
	case IsUnavailable(err) && closedEarly.MatchString(term.ErrorLine(err)):
		t, _ := d.Target()
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the swarm daemon at %s closed the connection before it answered (%s): it has ended, or it has too many connections; see its log, and try again when it runs", t, usage.Reason(term.ErrorLine(err))))
	// An error about a registry comes from a daemon, which could not reach that registry.
	case IsUnavailable(err) && d.notDialled(err.Error()) && !strings.Contains(err.Error(), "registry "):
		t, _ := d.Target()
		hint := "is it running? (`swarm init` and `swarm join` start it, `swarm daemon` runs it in the foreground)"
		switch {
		case strings.Contains(err.Error(), "permission denied"):
			hint = "permission denied: run as root, or as a member of the socket's group"
		case t.Network != "unix":
			hint = unreached(term.ErrorLine(err), t)
		}
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("cannot reach the swarm daemon at %s: %s", t, hint))
	case IsUnimplemented(err):
		return errdefs.ErrNotImplemented.WithMessage("the daemon does not know this request: it is older than this program, or this node is not a swarm manager; use -H to name a manager (" + term.ErrorLine(err) + ")")
	}
	return err
}

// transportFailure matches the errors of package transport for a failed dial. The first group is
// the address.
var transportFailure = regexp.MustCompile(`(\S+): (connection refused: is swarm|no route to it: |no answer: |its name cannot be looked up )`)

// notDialled reports whether the command line could not connect to its daemon. An error of package
// transport that names another address comes from the daemon, which could not connect to that host.
func (d *Deps) notDialled(text string) bool {
	if m := transportFailure.FindStringSubmatch(text); m != nil {
		t, _ := d.Target()
		return strings.HasSuffix(m[1], t.Address)
	}
	return dialFailure.MatchString(text)
}

// unreached returns why a TCP connection to the daemon failed, and what the user should check. It
// is the text that package transport puts after the address.
func unreached(text string, t Target) string {
	if _, why, ok := strings.Cut(text, t.Address+": "); ok {
		return strings.TrimSuffix(why, `"`)
	}
	return "is it running there, and does a firewall let port " + t.port() + " through? (" + usage.Reason(text) + ")"
}

// StaleRetries bounds how often a read-edit-write cycle is repeated because another write came
// first.
const StaleRetries = 10
