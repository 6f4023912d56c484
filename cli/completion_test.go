package cli_test

import (
	"strings"
	"testing"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestCompletion(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Networks = append(clitest.NetworkServer().Networks, &swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "host", Spec: &swarmv1.NetworkSpec{Name: "host"}}},
		&swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "net9", Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}}})
	global := &swarmv1.ServiceInfo{Service: &swarmv1.Service{Id: "svc2", Name: "glob"}, Revision: &swarmv1.Revision{Spec: clitest.ParseSpec(t, "mode{global{}}")}}
	s.Services = append(s.Services, global)
	for _, tc := range []struct{ line, want string }{
		{"service rm w", "web"},
		{"service scale w", "web="},
		{"node inspect h", "host1"},
		{"exec web", "web.1\thost2"},
		{"service create --mode gl", "global"},
		{"join-token m", "manager"},
		{"service create --network w", "web"},
		{"service update --network-add w", "web"},
		{"service create --constraint node.r", "node.role=="},
		{"node ls --filter r", "role="},
		{"service ls --format j", "json"},
		{"image pull --node h", "host1"},
	} {
		got := clitest.Run{Server: s}.Run(t, append([]string{"__complete"}, strings.Split(tc.line, " ")...)...)
		if !strings.Contains(got.Out, tc.want+"\n") {
			t.Errorf("%s: got %+v, want %q", tc.line, got, tc.want)
		}
	}
	// What cannot be done is not offered, nor are files where none are meant.
	for line, want := range map[string]string{
		"service scale ": "web=\n:6\n", "network rm ": "web\n:4\n", "service create --secret ": ":4\n", "service create --mount ": ":4\n",
		"service create --network ": "bridge\nweb\nhost\n:4\n",
		"join --token-file ":        ":0\n", "service create --env-file ": ":0\n",
	} {
		if got := (clitest.Run{Server: s}).Run(t, append([]string{"__complete"}, strings.Split(line, " ")...)...); got.Out != want {
			t.Errorf("%s: got %q, want %q", line, got.Out, want)
		}
	}
	if got := (clitest.Run{}).Run(t, "__complete", "service", "rm", ""); got.Out != ":4\n" {
		t.Errorf("without a daemon: got %+v", got)
	}
}
