package system_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestEvents(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	s.Events = []*swarmv1.Event{
		{Index: 7, Time: at, Type: "service", Action: swarmv1.Event_CREATE, Id: "s1", Attributes: map[string]string{"name": "web", "a": "b"}},
		{Index: 8, Time: at, Type: "service", Action: swarmv1.Event_REMOVE, Id: "s1"},
	}
	got := clitest.Run{Server: s}.Run(t, "events", "--since", "6", "--filter", "type=service", "--filter", "service=web", "--filter", "event=create")
	if got.Code != 0 || got.Out != "2026-01-02T03:04:05Z service create s1 (a=b, name=web, index=7)\n" {
		t.Errorf("got %+v", got)
	}
	if s.WatchReq.Since != 6 || s.WatchReq.Types[0] != "service" || s.WatchReq.Filter.ServiceIds[0] != "svc0000000000000000000001" {
		t.Errorf("asked for %v", s.WatchReq)
	}
	got = clitest.Run{Server: s}.Run(t, "events", "--format", "{{.Action}} {{.ID}} {{.Actor.Attributes.name}}", "--filter", "action=create")
	if got.Out != "create s1 web\n" {
		t.Errorf("template: got %+v", got)
	}
	clitest.Refused(t, "type", clitest.Run{Server: s}.Run(t, "events", "--filter", "type=x"), `unknown type "x"`)
}
