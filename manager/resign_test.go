package manager_test

import (
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

func TestManager_LastOneCannotResign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		refused(t, "resignation of the last manager", r.mgr.Resign(t.Context()), errdefs.IsFailedPrecondition, "manager")
	})
}
