package cluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/clitest"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestInit(t *testing.T) {
	s := &clitest.Server{}
	got := clitest.Run{Server: s}.Run(t, "init", "--advertise-addr", "10.0.0.1", "--cert-expiry", "2h", "--default-addr-pool", "10.20.0.0/16",
		"--default-addr-pool-mask-length", "26", "--task-history-limit", "0", "--availability", "drain")
	want := &swarmv1.InitRequest{
		AdvertiseAddr: "10.0.0.1", Availability: swarmv1.NodeSpec_DRAIN,
		Spec: &swarmv1.ClusterSpec{
			Orchestration: &swarmv1.OrchestrationConfig{},
			CaConfig:      &swarmv1.CAConfig{NodeCertExpiry: durationpb.New(2 * time.Hour)},
			Network:       &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.20.0.0/16"}, SubnetSize: 26},
		},
	}
	if len(s.Inits) != 1 {
		t.Fatalf("got %+v", got)
	}
	if diff := cmp.Diff(want, s.Inits[0], protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	clitest.Golden(t, "init.golden", got.Out)
}

func TestInitRefuses(t *testing.T) {
	for _, tc := range []struct{ flags, want string }{
		{"--advertise-addr 10.0.0.256", "--advertise-addr 10.0.0.256 is neither an IP address nor an interface"},
		{"--advertise-addr eth0:99999", `port "99999" is not a number from 1 to 65535`},
		{"--data-path-addr eth0:1", "has a port"},
		{"--data-path-port 80", "data path port 80 is out of range: use 1024 to 49151"},
		{"--default-addr-pool 10.0.0.0", `default address pool "10.0.0.0" is not a network`},
		{"--default-addr-pool 10.0.0.0/24 --default-addr-pool-mask-length 20", "smaller than one subnet"},
		{"--cert-expiry 10s", "certificate expiry 10s is too short: use at least 30s"},
		{"--task-history-limit 101", "task history limit 101 is out of range"},
		{"--availability gone", `invalid argument "gone" for "--availability" flag: use one of active, pause, drain`},
	} {
		s := &clitest.Server{}
		got := clitest.Run{Server: s}.Run(t, append([]string{"init"}, strings.Fields(tc.flags)...)...)
		clitest.Refused(t, tc.flags, got, tc.want)
		if len(s.Inits) > 0 {
			t.Errorf("%s: was sent", tc.flags)
		}
	}
}

func TestJoin(t *testing.T) {
	token := pki.NewToken(clitest.NewRoot(t).Cert).String()
	s := &clitest.Server{}
	got := clitest.Run{Server: s}.Run(t, "join", "--token", token, "10.0.0.1", "[fd00::1]:3000")
	if got.Code != 0 || got.Out != "This node joined a swarm as a manager.\n" {
		t.Errorf("got %+v", got)
	}
	want := &swarmv1.JoinClusterRequest{Token: token, RemoteAddrs: []string{"10.0.0.1:2377", "[fd00::1]:3000"}}
	if diff := cmp.Diff(want, s.Joins[0], protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	for _, tc := range []struct{ args, want string }{
		{"10.0.0.1", "a join token is missing"},
		{"--token SWMTKN-1-x-y 10.0.0.1", "join token has a digest of 1 characters"},
		{"--token " + token + " 10.0.0.1:0", `address "10.0.0.1:0" of the manager is not valid`},
		{"--token " + token, "takes at least 1 argument"},
	} {
		clitest.Refused(t, tc.args, clitest.Run{Server: s}.Run(t, append([]string{"join"}, strings.Fields(tc.args)...)...), tc.want)
	}
	if len(s.Joins) != 1 {
		t.Errorf("%d joins were sent, want 1", len(s.Joins))
	}
}

func TestLeave(t *testing.T) {
	clitest.Refused(t, "leave", clitest.Run{Server: &clitest.Server{}}.Run(t, "leave"), "this node is a manager: demote it first, or leave with --force")
	if got := (clitest.Run{Server: &clitest.Server{}}).Run(t, "leave", "-f"); got.Out != "Node left the swarm.\n" {
		t.Errorf("got %+v", got)
	}
}

const tokenHint = "On a host with other users, put the token into a file and use --token-file: they can read command lines.\n"

func TestJoinToken(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"-q worker", "SWMTKN-w\n"},
		{"-q manager", "SWMTKN-m\n"},
		{"--rotate -q worker", "SWMTKN-rotated\n"},
		{"manager", "To add a manager to this swarm, run the following command:\n\n    swarm join --token SWMTKN-m 10.0.0.1:2377\n\n" + tokenHint},
		{"--rotate worker", "Successfully rotated worker join token.\n\nTo add a worker to this swarm, run the following command:\n\n    swarm join --token SWMTKN-rotated 10.0.0.1:2377\n\n" + tokenHint},
	} {
		got := clitest.Run{Server: clitest.TokenServer()}.Run(t, append([]string{"join-token"}, strings.Fields(tc.args)...)...)
		if got.Code != 0 || got.Out != tc.want {
			t.Errorf("%s: got %+v, want %q", tc.args, got, tc.want)
		}
	}
	clitest.Refused(t, "boss", clitest.Run{Server: clitest.TokenServer()}.Run(t, "join-token", "boss"), `unknown role "boss": use worker or manager`)
}

// A build without libseccomp warns where it begins to run containers.
func TestInit_WarnsWithoutSeccomp(t *testing.T) {
	for _, line := range []string{"init", "join --token " + pki.NewToken(clitest.NewRoot(t).Cert).String() + " 10.0.0.1"} {
		for _, seccomp := range []bool{true, false} {
			s := &clitest.Server{Info: &swarmv1.InfoResponse{Version: &swarmv1.VersionInfo{Runc: "1.5.2", Seccomp: seccomp}}}
			got := clitest.Run{Server: s}.Run(t, strings.Fields(line)...)
			want := ""
			if !seccomp {
				want = "Warning: containers run without a seccomp profile and may make any system call: this swarm was built without libseccomp\n"
			}
			if got.Code != 0 || got.ErrOut != want {
				t.Errorf("%s, seccomp %v: got %+v, want %q", line, seccomp, got, want)
			}
		}
	}
}
