package worker

import (
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
)

// backoff is the pause after the try-th failure (from 0): it doubles from first to limit, and half of it is random so
// that nodes that failed together do not come back together.
func backoff(try int, first, limit time.Duration) time.Duration {
	d := limit
	if try < 16 && first<<try < limit {
		d = first << try
	}
	return d/2 + rand.N(d/2+1)
}

// final says that doing the same again will not help.
func final(err error) bool {
	return errdefs.IsInvalidArgument(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) ||
		errdefs.IsFailedPrecondition(err) || errdefs.IsNotImplemented(err)
}
