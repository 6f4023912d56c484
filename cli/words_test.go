package cli_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// What cannot be understood is said in this program's own words, and once.
func TestFlagErrors(t *testing.T) {
	for _, c := range []struct {
		args, want string
		not        string
	}{
		{"service create --replicas -1 app", `"-1" for "--replicas" flag: use a whole number, 0 or more`, "strconv"},
		{"service create --restart-max-attempts -1 app", "use a whole number, 0 or more", "strconv"},
		{"service create --replicas 99999999999999999999 app", "it is out of range", "strconv"},
		{"service create --update-delay soon app", "use a duration such as", "time:"},
		{"service create --update-max-failure-ratio much app", "use a number", "strconv"},
		{"service logs --follow=maybe web", "use true or false", "strconv"},
		{"events --since 1h", "use a whole number, 0 or more", "strconv"},
		{"service create --memory-swap -2 app", "or -1 for no limit", ""},
		{"service create --limit-memory -2 app", "use a number of bytes with an optional unit", "-1"},
		{"service create --limit-memory 99999999999999g app", "more than any machine has", "optional unit"},
		{"service create --constraint x app", `--constraint: constraint "x" has no operator`, "invalid argument"},
		{"service create --constraint engine==x app", "use one of node.id", "engine.labels"},
		{"service scale web=99999999999", "replicas value 99999999999 for web is out of range", "whole number"},
		{"service scale web=many", "use a whole number, 0 or more", "range"},
		{"service update --rollback --image web:2 web", "--image may not be combined with --rollback", ""},
		{"service create --mount target=/a --mount target=/a app", `mount target "/a" is used twice`, ""},
		{"service create --mount type=image,source=web:1,target=/img app", "nodes cannot mount images yet", ""},
	} {
		got := run{server: webServer(t, time.Now())}.run(t, strings.Fields(c.args)...)
		if got.code == 0 || got.out != "" || !strings.Contains(got.errOut, c.want) || c.not != "" && strings.Contains(got.errOut, c.not) {
			t.Errorf("%s: got %+v, want %q and not %q", c.args, got, c.want, c.not)
		}
	}
}

// Of several objects those that exist are shown; then comes what was wrong with the others.
func TestSomeOfSeveral(t *testing.T) {
	for _, args := range []string{"service inspect nope web", "service inspect --pretty nope web", "service inspect -f {{.Spec.Name}} nope web", "service ps nope web", "node inspect nope host1", "node inspect --pretty nope host1", "node ps nope host2"} {
		got := run{server: webServer(t, time.Now())}.run(t, strings.Fields(args)...)
		if got.code != 1 || len(got.out) < 4 || strings.Count(got.errOut, "nope") != 1 {
			t.Errorf("%s: got %+v, want what exists, and one error", args, got)
		}
		words := strings.Fields(args)
		got = run{server: webServer(t, time.Now())}.run(t, words[:len(words)-1]...)
		if got.code != 1 || got.out != "" || strings.Count(got.errOut, "nope") != 1 {
			t.Errorf("%s without the last: got %+v, want an error alone", args, got)
		}
	}
}

// Removing what is not there succeeds, as in Docker, and says so.
func TestUpdate_RemovalOfNothingIsSaid(t *testing.T) {
	for flag, value := range map[string]string{
		"publish-rm": "9999", "env-rm": "NOPE", "mount-rm": "/nope", "host-rm": "nope", "constraint-rm": "node.role==x", "label-rm": "nope", "network-rm": "nope",
	} {
		got := run{server: webServer(t, time.Now())}.run(t, "service", "update", "-d", "--"+flag, value, "web")
		if want := "Warning: --" + flag + " " + value + " removes nothing: service web does not have it\n"; got.code != 0 || got.errOut != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	if got := (run{server: webServer(t, time.Now())}).run(t, "service", "update", "-d", "--env-rm", "A", "web"); got.code != 0 || got.errOut != "" {
		t.Errorf("removing what is there: got %+v", got)
	}
}

// Words of Docker's that this program does not have name what to use, or that it is not there yet.
func TestUnknownCommands_OfDocker(t *testing.T) {
	for word, want := range map[string]string{
		"stack": "not there yet", "secret": "not there yet", "config": "not there yet", "volume": "not there yet",
		"ps": "swarm service ps", "logs": "swarm service logs", "srvice": `did you mean "service"?`,
	} {
		got := run{server: &fakeServer{}}.run(t, word)
		if got.code != 1 || !strings.Contains(got.errOut, want) || strings.HasPrefix(want, "swarm") && strings.Contains(got.errOut, "did you mean") {
			t.Errorf("%s: got %+v, want %q", word, got, want)
		}
	}
}

// States of updates are spelled as Docker spells them, and no label of --pretty touches its value.
func TestServiceInspect_Words(t *testing.T) {
	s := webServer(t, time.Now())
	s.services[0] = s.services[0].CloneVT()
	s.services[0].Service.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_ROLLBACK_COMPLETED, StartedAt: timestamppb.Now(), CompletedAt: timestamppb.Now()}
	s.services[0].Revision.Spec.UpdateConfig = &swarmv1.UpdateConfig{Monitor: durationpb.New(5 * time.Second)}
	s.services[0].Revision.Spec.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_ON_FAILURE, MaxAttempts: 3}
	pretty := run{server: s}.run(t, "service", "inspect", "--pretty", "web").out
	for _, want := range []string{"rollback_completed\n", " Monitoring Period: 5s\n", " Max failure ratio: 0\n", " Completed:", " Condition:     on-failure\n", " Max Attempts:  3\n"} {
		if !strings.Contains(pretty, want) {
			t.Errorf("got\n%swant %q", pretty, want)
		}
	}
	for _, args := range [][]string{{"inspect", "-f", "{{.UpdateStatus.State}}", "web"}, {"ls", "--format", "{{.UpdateStatus}}"}} {
		if got := (run{server: s}).run(t, append([]string{"service"}, args...)...); got.out != "rollback_completed\n" {
			t.Errorf("%v: got %+v", args, got)
		}
	}
}
