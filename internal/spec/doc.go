// Package spec validates the specs that users send: services, nodes, clusters, networks, secrets
// and configs. It fills in their defaults, normalises image references, parses placement
// constraints, and decides whether two specs make the same tasks. Its errors are
// errdefs.ErrInvalidArgument with a text of one line: what is wrong, why, and what to do instead.
//
// The package does not know which objects exist. Its callers check whether a name is taken or an
// image can be found. The control API calls it on every write, the planner uses its constraints,
// and the command line checks specs before it sends them. It is pure and runs no goroutine.
//
// Service, Node, Cluster, Network and DataKind.Spec take the spec that a user sent, and return
// either a complete copy to store or an error. They fill in the defaults. If they get a spec that
// they have returned before, they return it unchanged.
package spec

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// invalid makes an error for the user. format says what is wrong, why, and what to do.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// quoteMax is the most bytes of a value that an error text quotes, so that a large or hostile value
// keeps the text one readable line.
const quoteMax = 80

func quote(s string) string {
	if len(s) > quoteMax {
		return fmt.Sprintf("%q...", s[:quoteMax])
	}
	return fmt.Sprintf("%q", s)
}

// firstError returns the first error that is not nil. Validators list their checks in the order of
// the fields of the spec.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
