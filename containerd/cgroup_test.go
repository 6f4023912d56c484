//go:build linux

package containerd

import (
	"testing"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

func TestCgroup_IsAPathOrAScope(t *testing.T) {
	for _, tc := range []struct {
		parent  string
		systemd bool
		want    string // empty: refused
	}{
		{"/swarm", false, "/swarm/t1"},
		{"swarm.slice", true, "swarm.slice:swarm:t1"},
		{"swarm.slice", false, ""},
		{"/swarm", true, ""},
		{"/x/swarm.slice", true, ""},
	} {
		cfg := Config{StateDir: "/s", RunDir: "/r", CgroupParent: tc.parent, SystemdCgroup: tc.systemd}
		err := cfg.validate()
		if tc.want == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%+v: got %v, want a refusal", tc, err)
			}
			continue
		}
		r := &Runtime{cfg: cfg}
		if got := r.cgroup(engine.Container{Task: &swarmv1.Task{Id: "t1"}}); err != nil || got != tc.want {
			t.Errorf("%+v: got %s, %v", tc, got, err)
		}
	}
}
