// Package spec owns what a valid request is: it validates specs, fills in their defaults once, at create, normalises
// image references, reads placement constraints, and tells whether two specs make the same tasks. Its errors are
// errdefs.ErrInvalidArgument and one line each: what is wrong, why, and what to do instead. It refuses to know what
// exists: whether a name is taken or an image can be found is for its callers. The control API calls it on every write,
// the planner for constraints, the command line before it asks. It is pure and runs no goroutine.
//
// The rule of use: Service, Node, Cluster, Network, Secret and Config take what a user sent and return a complete copy
// to be stored, or the reason why not. What they return, they return unchanged when given again.
package spec

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// invalid makes the error for the user: format is what is wrong, why, and what to do.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// quoteMax bounds what is echoed of a hostile or huge value, so that the message stays one readable line.
const quoteMax = 80

func quote(s string) string {
	if len(s) > quoteMax {
		return fmt.Sprintf("%q...", s[:quoteMax])
	}
	return fmt.Sprintf("%q", s)
}

// first returns the first refusal: validators list their checks in the order of the spec's fields.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
