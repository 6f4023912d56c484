package system_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// history is a service that is created and removed.
func history() []*swarmv1.Event {
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 7, time.UTC))
	return []*swarmv1.Event{
		{Index: 7, Part: 1, Time: at, Type: "service", Action: swarmv1.Event_CREATE, Id: "s1", Attributes: map[string]string{"name": "web", "a": "b"}},
		{Index: 7}, // a bookmark
		{Index: 8, Part: 2, Time: at, Type: "service", Action: swarmv1.Event_REMOVE, Id: "s1"},
	}
}

func TestEvents(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Events = history()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const day = "2026-01-02T03:04:05.000000007Z "
	for _, tc := range []struct{ format, want string }{
		{"", day + "service create s1 (a=b, name=web)\n" + day + "service remove s1\n"},
		{"{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.Scope}} {{.Time}}", "create s1 web swarm 1767323045\nremove s1 <no value> swarm 1767323045\n"},
		{
			"json", `{"Type":"service","Action":"create","Actor":{"ID":"s1","Attributes":{"a":"b","name":"web"}},"scope":"swarm","time":1767323045,"timeNano":1767323045000000007}` + "\n" +
				`{"Type":"service","Action":"remove","Actor":{"ID":"s1","Attributes":{}},"scope":"swarm","time":1767323045,"timeNano":1767323045000000007}` + "\n",
		},
	} {
		for _, verb := range [][]string{{"events"}, {"system", "events"}} {
			got := clitest.Run{Server: s, Now: now}.Run(t, append(verb, "--format", tc.format)...)
			if got.Code != 0 || got.Out != tc.want {
				t.Errorf("%q: got %+v, want %q", tc.format, got, tc.want)
			}
		}
	}
	clitest.Run{Server: s, Now: now}.Run(t, "events", "--since", "10m", "--until", "1767323046.000000005", "--filter", "type=service", "--filter", "service=web")
	r := s.WatchReq
	if r.Since.AsTime() != now.Add(-10*time.Minute) || r.Until.AsTime() != now.Add(time.Second+5) || strings.Join(r.Filters, " ") != "type=service service=web" {
		t.Errorf("asked for %v", r)
	}
	for line, want := range map[string]string{
		"events --filter type=x":                       `unknown type "x"`,
		"events --filter event=x":                      `unknown event "x"`,
		"events --filter scope=local":                  "matches no event",
		"events --since soon":                          "is not a time",
		"events --since 2026-01-03 --until 2026-01-02": "is before --since",
		"events --until 10m":                           "give --since too",
	} {
		clitest.Refused(t, line, clitest.Run{Server: s, Now: now}.Run(t, strings.Fields(line)...), want)
	}
}

// When the manager is lost, the command continues after the last event that it has printed.
func TestEvents_Continues(t *testing.T) {
	var places []string
	s := &clitest.Server{OnWatch: func(r *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
		places = append(places, fmt.Sprintf("%d/%d", r.GetIndex(), r.GetPart()))
		events := history()
		switch len(places) {
		case 1:
			if err := stream.Send(events[0]); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "the daemon stops")
		case 2:
			if err := stream.Send(events[2]); err != nil {
				return err
			}
		}
		return nil
	}}
	got := clitest.Run{Server: s}.Run(t, "events", "--format", "{{.Action}}")
	if got.Code != 0 || got.Out != "create\nremove\n" || strings.Join(places, " ") != "0/0 7/1" {
		t.Errorf("got %+v, asked for %v", got, places)
	}
	if want := "waiting to continue, the manager does not answer: the daemon stops\nthe manager answers again: no event is missing\n"; got.ErrOut != want {
		t.Errorf("said %q, want %q", got.ErrOut, want)
	}
	s.OnWatch = func(r *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
		if r.GetIndex() == 0 {
			return status.Error(codes.Unavailable, "the daemon stops")
		}
		return status.Error(codes.OutOfRange, "too old")
	}
	if got := (clitest.Run{Server: s}).Run(t, "events"); got.Code != 1 || !strings.Contains(got.ErrOut, "events were missed") {
		t.Errorf("too far behind: got %+v", got)
	}
}
