package service_test

import (
	"testing"
	"time"

	"swarm/cli/clitest"
)

// Removing what is not there succeeds, as in Docker, and says so.
func TestUpdate_RemovalOfNothingIsSaid(t *testing.T) {
	for flag, value := range map[string]string{
		"publish-rm": "9999", "env-rm": "NOPE", "mount-rm": "/nope", "host-rm": "nope", "constraint-rm": "node.role==x", "label-rm": "nope", "network-rm": "nope",
	} {
		got := clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, "service", "update", "-d", "--"+flag, value, "web")
		if want := "Warning: --" + flag + " " + value + " removes nothing: service web does not have it\n"; got.Code != 0 || got.ErrOut != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	if got := (clitest.Run{Server: clitest.WebServer(t, time.Now())}).Run(t, "service", "update", "-d", "--env-rm", "A", "web"); got.Code != 0 || got.ErrOut != "" {
		t.Errorf("removing what is there: got %+v", got)
	}
}
