package cli_test

import (
	"strings"
	"testing"
	"time"

	"swarm/cli/clitest"
)

// The error for a wrong value is one sentence of this program, without the words of its libraries.
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
		{"events --since soon", "is not a time", "strconv"},
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
		got := clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, strings.Fields(c.args)...)
		if got.Code == 0 || got.Out != "" || !strings.Contains(got.ErrOut, c.want) || c.not != "" && strings.Contains(got.ErrOut, c.not) {
			t.Errorf("%s: got %+v, want %q and not %q", c.args, got, c.want, c.not)
		}
	}
}

// Of several objects those that exist are shown; then comes what was wrong with the others.
func TestSomeOfSeveral(t *testing.T) {
	for _, args := range []string{"service inspect nope web", "service inspect --pretty nope web", "service inspect -f {{.Spec.Name}} nope web", "service ps nope web", "node inspect nope host1", "node inspect --pretty nope host1", "node ps nope host2"} {
		got := clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, strings.Fields(args)...)
		if got.Code != 1 || len(got.Out) < 4 || strings.Count(got.ErrOut, "nope") != 1 {
			t.Errorf("%s: got %+v, want what exists, and one error", args, got)
		}
		words := strings.Fields(args)
		got = clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, words[:len(words)-1]...)
		if got.Code != 1 || got.Out != "" || strings.Count(got.ErrOut, "nope") != 1 {
			t.Errorf("%s without the last: got %+v, want an error alone", args, got)
		}
	}
}

// The error for a Docker command that this program does not have names the command to use instead,
// or says that it is not supported yet.
func TestUnknownCommands_OfDocker(t *testing.T) {
	for word, want := range map[string]string{
		"stack": "not supported yet",
		"rmi":   "swarm image rm", "ca": "cannot be shown or replaced yet", "network connect": "--network-add", "swarm": "leave the word swarm out",
		"ps": "swarm service ps", "logs": "swarm service logs", "srvice": `did you mean "service"?`,
	} {
		got := clitest.Run{Server: &clitest.Server{}}.Run(t, strings.Fields(word)...)
		if got.Code != 1 || !strings.Contains(got.ErrOut, want) || strings.HasPrefix(want, "swarm") && strings.Contains(got.ErrOut, "did you mean") {
			t.Errorf("%s: got %+v, want %q", word, got, want)
		}
	}
}
