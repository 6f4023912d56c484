//go:build linux

package containerd_test

import (
	"strings"
	"testing"

	"swarm/worker/engine"
)

// A running container sees the new data of its secrets and configs, in the folder of secrets and
// elsewhere, as often as they change.
func TestRuntime_ExchangesFilesWhileItRuns(t *testing.T) {
	n := newNode(t)
	files := func(data string) []engine.File {
		return []engine.File{
			{Path: "/run/secrets/s", Data: []byte("secret " + data + "\n"), UID: "alice", Mode: 0o440},
			{Path: "/run/secrets/deep/s", Data: []byte("deep " + data + "\n"), Mode: 0o444},
			{Path: "/etc/app.conf", Data: []byte("config " + data + "\n"), Mode: 0o644},
		}
	}
	c := n.container("sleep 1000", func(c *engine.Container) { c.Files = files("one") })
	n.run(c)
	id := c.Task.GetId()
	for _, data := range []string{"one", "two", "three"} {
		if err := n.runtime.Exchange(n.Ctx, id, files(data)); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		got := n.inside(id, "cat /run/secrets/s /run/secrets/deep/s /etc/app.conf; stat -c '%a %u' /run/secrets/s; echo x 2>/dev/null > /etc/app.conf || echo refused")
		want := "secret " + data + "\ndeep " + data + "\nconfig " + data + "\n440 1000\nrefused"
		if got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
	if err := n.runtime.Exchange(n.Ctx, id, []engine.File{{Path: "/etc/other"}}); err == nil || !strings.Contains(err.Error(), "is not a file of the container") {
		t.Errorf("a file that the container does not have: %v", err)
	}
}
