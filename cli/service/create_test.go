package service_test

import (
	"testing"
	"testing/synctest"
	"time"

	"swarm/cli/clitest"
)

// A service whose name still belongs to one that is being removed is created once that is gone, and
// not in silence.
func TestServiceCreate_SaysThatItWaitsForTheName(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := clitest.WebServer(t, time.Now())
		s.Services[0].Service.PendingDelete = true
		s.BeforeCreate = func() {
			time.Sleep(10 * time.Second)
			s.Change(func() { s.Services = nil })
		}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "-d", "--name", "web", "nginx")
		if got.Code != 0 || got.ErrOut != "service web is still being removed: waiting until its tasks have stopped\nWarning: be careful\n" {
			t.Errorf("got %+v", got)
		}
	})
}
