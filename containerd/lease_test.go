//go:build linux

package containerd_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/containerd"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Shims of a containerd of the host do not know leases. A task that relies on a lease is refused
// for good.
func TestRuntime_ForeignShimsKeepNoLease(t *testing.T) {
	r, err := containerd.New(containerd.Config{StateDir: t.TempDir(), RunDir: t.TempDir(), CgroupParent: "/swarm"}, containerd.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = r.Prepare(t.Context(), engine.Container{Task: &swarmv1.Task{Id: "t1"}, Lease: "/run/lease"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--containerd-address") {
		t.Errorf("prepare a single-writer container on a foreign containerd: got %v, want FailedPrecondition and what to do", err)
	}
}
