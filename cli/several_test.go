package cli_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// Of several arguments, what exists is shown or done, in the order in which it was named; then
// comes the error for the rest.
func TestSeveralArguments(t *testing.T) {
	now := time.Now()
	server := func() *clitest.Server {
		s := clitest.WebServer(t, now)
		s.Networks = []*swarmv1.NetworkInfo{{Network: &swarmv1.Network{Id: "net1", Spec: &swarmv1.NetworkSpec{Name: "app"}}}}
		s.Images = []*swarmv1.ImageInfo{{Image: &swarmv1.Image{Id: "i1", Name: "docker.io/library/web:1", Digest: "sha256:abcd"}}}
		s.Credentials = clitest.CredentialServer().Credentials
		for _, task := range s.Tasks {
			task.Task.NodeId = s.Nodes[0].Node.Id
		}
		return s
	}
	for _, tc := range []struct {
		args string
		// out is what standard output has of what exists, missing what the error names.
		out, missing string
	}{
		{"service inspect nope web --format {{.ID}}", "svc0000000000000000000001\n", "service nope"},
		{"service inspect --pretty nope web", "svc0000000000000000000001", "service nope"},
		{"service ps -q nope web", "taskaaaaaaaaaaaaaaaaaaaa2\n", "service nope"},
		{"service rm nope web", "web\n", "service nope"},
		{"service scale -d nope=1 web=3", "web scaled to 3\n", "service nope"},
		{"node inspect nope host1 --format {{.Description.Hostname}}", "host1\n", "node nope"},
		{"node inspect --pretty nope host1", "host1", "node nope"},
		{"node ps -q nope host2", "taskaaaaaaaaaaaaaaaaaaaa2\n", "node nope"},
		{"node promote nope host2", "Node host2 ", "node nope"},
		{"node demote nope host2", "host2", "node nope"},
		{"node rm nope host2", "host2\n", "node nope"},
		{"task inspect nope taskaaaaaaaaaaaaaaaaaaaa2 --format {{.ID}}", "taskaaaaaaaaaaaaaaaaaaaa2\n", "task nope"},
		{"network inspect nope app --format {{.Name}}", "app\n", "network nope"},
		{"network rm nope app", "app\n", "network nope"},
		{"image inspect nope web:1 --format {{.Name}}", "docker.io/library/web:1\n", "image nope"},
		{"image rm nope web:1", "Untagged: web:1\n", "image nope"},
		{"credential rm nope ci", "f00dcafe", "credential nope"},
	} {
		got := clitest.Run{Server: server(), Now: now}.Run(t, strings.Fields(tc.args)...)
		if got.Code != 1 || !strings.Contains(got.Out, tc.out) || !strings.Contains(got.ErrOut, tc.missing) || !strings.HasPrefix(got.ErrOut, "Error: ") {
			t.Errorf("swarm %s: got %+v, want %q in the output and %q in the error", tc.args, got, tc.out, tc.missing)
		}
	}
}

// "table" names the default format: it is the same to the last character.
func TestFormatTableIsTheDefault(t *testing.T) {
	now := time.Now()
	for _, args := range [][]string{{"service", "ls"}, {"service", "ps", "web"}, {"node", "ls"}, {"task", "ls"}, {"image", "ls"}, {"network", "ls"}, {"credential", "ls"}} {
		r := clitest.Run{Server: clitest.WebServer(t, now), Now: now}
		plain, table := r.Run(t, args...), r.Run(t, append(args, "--format", "table")...)
		if plain.Code != 0 || plain != table {
			t.Errorf("%v: got\n%+v\nwith --format table\n%+v", args, plain, table)
		}
	}
}

// What takes long because tasks stop says so.
func TestSlowRemovals(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := clitest.WebServer(t, time.Now())
		s.BeforeRemove = func() { time.Sleep(10 * time.Second) }
		s.Networks = []*swarmv1.NetworkInfo{{Network: &swarmv1.Network{Id: "net1", Spec: &swarmv1.NetworkSpec{Name: "app"}}}}
		s.Services[0].Service.PendingDelete = true
		for _, tc := range []struct{ line, out, errOut string }{
			{"leave --force", "Node left the swarm.\n", "waiting until the tasks of this node have stopped: each has its grace period\n"},
			{"network rm app", "app\n", "network app is in use by services that are being removed, web: waiting until their tasks have stopped\n"},
		} {
			if got := (clitest.Run{Server: s}).Run(t, strings.Fields(tc.line)...); got.Code != 0 || got.Out != tc.out || got.ErrOut != tc.errOut {
				t.Errorf("%s: got %+v, want %q and %q", tc.line, got, tc.out, tc.errOut)
			}
		}
	})
}
