package raftstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

var errNoLeader = errdefs.ErrUnavailable.WithMessage("the managers have no leader: more than half of them must be up and reach each other (swarm node ls)")

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// permanentError marks an error that a retry cannot change.
type permanentError struct{ error }

// Unwrap returns the error that is marked.
func (e permanentError) Unwrap() error { return e.error }

// isRetryable reports whether a request may be proposed again after err. Every error is retryable
// except a permanentError, the end of a context, and the end of this store. Nearly all other errors
// mean that leadership moves or that the disk of the leader fails. A request that was already
// applied is not applied again (see requestSession).
func isRetryable(err error) bool {
	var permanent permanentError
	return err != nil && !errors.As(err, &permanent) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) &&
		!errors.Is(err, watch.ErrClosed) && !errors.Is(err, raft.ErrRaftShutdown)
}

// fillResults stores the refusals of an answer in the slice into, which has one error for each
// group of the request.
func fillResults(a *swarmv1.Answer, into []error) {
	for _, r := range a.GetRefused() {
		if int(r.GetGroup()) < len(into) {
			into[r.GetGroup()] = table.ResultError(r.GetResult())
		}
	}
}
