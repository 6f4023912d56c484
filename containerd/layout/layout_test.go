package layout

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestLayout_Validate(t *testing.T) {
	if err := (Layout{Data: "/var/lib/swarm", Run: "/run/swarm"}).Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for _, l := range []Layout{
		{},
		{Data: "/d"},
		{Data: "d", Run: "/r"},
		{Data: "/d", Run: "/./d"},
		{Data: "/d", Run: "/" + strings.Repeat("r", 36)},
	} {
		if err := l.Validate(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: got %v, want invalid argument", l, err)
		}
	}
}

func TestLayout_LongestRunLeavesRoomForSockets(t *testing.T) {
	l := Layout{Data: "/d", Run: "/" + strings.Repeat("r", 28)}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	// containerd's own limit on its socket_dir.
	if dir := ShimSockets(l.State()); len(dir) > 42 {
		t.Errorf("shim sockets %s: %d characters, want at most 42", dir, len(dir))
	}
}

func TestStateOfBundle_IsTheInverseOfBundles(t *testing.T) {
	state := "/run/swarm/containerd"
	bundle := filepath.Join(Bundles(state), Namespace, "c1")
	if got := StateOfBundle(bundle + "/"); got != state {
		t.Errorf("state of %s: got %s, want %s", bundle, got, state)
	}
}
