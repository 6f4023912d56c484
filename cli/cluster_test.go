package cli_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/command"
	"swarm/cli/credential"
	"swarm/cli/daemon"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestInit(t *testing.T) {
	s := &fakeServer{}
	got := run{server: s}.run(t, "init", "--advertise-addr", "10.0.0.1", "--cert-expiry", "2h", "--default-addr-pool", "10.20.0.0/16",
		"--default-addr-pool-mask-length", "26", "--task-history-limit", "0", "--availability", "drain")
	want := &swarmv1.InitRequest{
		AdvertiseAddr: "10.0.0.1", Availability: swarmv1.NodeSpec_DRAIN,
		Spec: &swarmv1.ClusterSpec{
			Orchestration: &swarmv1.OrchestrationConfig{},
			CaConfig:      &swarmv1.CAConfig{NodeCertExpiry: durationpb.New(2 * time.Hour)},
			Network:       &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.20.0.0/16"}, SubnetSize: 26},
		},
	}
	if len(s.inits) != 1 {
		t.Fatalf("got %+v", got)
	}
	if diff := cmp.Diff(want, s.inits[0], protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	golden(t, "init.golden", got.out)
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
		s := &fakeServer{}
		got := run{server: s}.run(t, append([]string{"init"}, strings.Fields(tc.flags)...)...)
		refused(t, tc.flags, got, tc.want)
		if len(s.inits) > 0 {
			t.Errorf("%s: was sent", tc.flags)
		}
	}
}

// refused checks that a command line failed with one line on standard error.
func refused(t *testing.T, line string, got result, want string) {
	t.Helper()
	code := 1
	if badFlag.MatchString(got.errOut) && got.code != code {
		code = 125 // as in Docker; TestFlagErrors_ExitCode
	}
	refusedWith(t, code, line, got, want)
}

// badFlag matches what is said of a flag, or of the value it was given.
var badFlag = regexp.MustCompile(`^Error: (unknown (shorthand )?flag|flag needs an argument|invalid argument "[^\n]*" for "|--[a-z-]+: )`)

// The codes of Docker's command line: 125 for a flag that is not known or takes no such value, else
// 1.
func TestFlagErrors_ExitCode(t *testing.T) {
	for line, want := range map[string]int{
		"service create --bogus x": 125, "service ls --bogus": 125, "service create --replicas abc x": 125, "service create --network": 125,
		"exec -z x y": 125, "service --bogus": 125, "--host": 125, "--stale=maybe service ls": 125,
		"nosuch": 1, "service nosuch": 1, "service create": 1, "node ls extra": 1,
	} {
		if got := (run{}).run(t, strings.Fields(line)...); got.code != want {
			t.Errorf("%s: got %d, want %d: %s", line, got.code, want, got.errOut)
		}
	}
}

func refusedWith(t *testing.T, code int, line string, got result, want string) {
	t.Helper()
	if got.code != code || got.out != "" || !strings.HasPrefix(got.errOut, "Error: ") || !strings.Contains(got.errOut, want) || strings.Count(got.errOut, "\n") != 1 {
		t.Errorf("%s: got %+v, want one line with %q", line, got, want)
	}
}

func TestJoin(t *testing.T) {
	token := pki.NewToken(testRoot(t).Cert).String()
	s := &fakeServer{}
	got := run{server: s}.run(t, "join", "--token", token, "10.0.0.1", "[fd00::1]:3000")
	if got.code != 0 || got.out != "This node joined a swarm as a manager.\n" {
		t.Errorf("got %+v", got)
	}
	want := &swarmv1.JoinClusterRequest{Token: token, RemoteAddrs: []string{"10.0.0.1:2377", "[fd00::1]:3000"}}
	if diff := cmp.Diff(want, s.joins[0], protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	for _, tc := range []struct{ args, want string }{
		{"10.0.0.1", "a join token is missing"},
		{"--token SWMTKN-1-x-y 10.0.0.1", "join token has a digest of 1 characters"},
		{"--token " + token + " 10.0.0.1:0", `address "10.0.0.1:0" of the manager is not valid`},
		{"--token " + token, "takes at least 1 argument"},
	} {
		refused(t, tc.args, run{server: s}.run(t, append([]string{"join"}, strings.Fields(tc.args)...)...), tc.want)
	}
	if len(s.joins) != 1 {
		t.Errorf("%d joins were sent, want 1", len(s.joins))
	}
}

func TestLeave(t *testing.T) {
	refused(t, "leave", run{server: &fakeServer{}}.run(t, "leave"), "this node is a manager: demote it first, or leave with --force")
	if got := (run{server: &fakeServer{}}).run(t, "leave", "-f"); got.out != "Node left the swarm.\n" {
		t.Errorf("got %+v", got)
	}
}

func tokenServer() *fakeServer {
	return &fakeServer{
		cluster: &swarmv1.Cluster{
			Id: "c", Meta: &swarmv1.Meta{Version: 3},
			RootCa: &swarmv1.RootCA{JoinTokens: &swarmv1.JoinTokens{Worker: "SWMTKN-w", Manager: "SWMTKN-m"}},
		},
		nodes: testNodes(),
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
		got := run{server: tokenServer()}.run(t, append([]string{"join-token"}, strings.Fields(tc.args)...)...)
		if got.code != 0 || got.out != tc.want {
			t.Errorf("%s: got %+v, want %q", tc.args, got, tc.want)
		}
	}
	refused(t, "boss", run{server: tokenServer()}.run(t, "join-token", "boss"), `unknown role "boss": use worker or manager`)
}

func TestInfo(t *testing.T) {
	s := &fakeServer{info: &swarmv1.InfoResponse{
		LocalNodeState: "active", NodeId: "node1", NodeAddr: "10.0.0.1", ClusterId: "c1", Role: swarmv1.NodeSpec_MANAGER, ControlAvailable: true,
		LeaderId: "node1", Managers: 3, Nodes: 5, StateDir: "/var/lib/swarm", RunDir: "/run/swarm", Tasks: 7,
		Members:     []*swarmv1.Member{{NodeId: "node1", Addr: "10.0.0.1:7946", Status: "alive"}},
		Version:     &swarmv1.VersionInfo{Version: "v1", Containerd: "v2.4.2", Runc: "1.5.2", Seccomp: true},
		HostChanges: []string{"nft table inet swarm"}, Uptime: durationpb.New(90 * time.Minute),
		Description: &swarmv1.NodeDescription{Hostname: "host1", Resources: &swarmv1.Resources{NanoCpus: 2e9, MemoryBytes: 8 << 30}},
	}}
	s.cluster = &swarmv1.Cluster{Spec: &swarmv1.ClusterSpec{Network: &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.0.0.0/8", "172.20.0.0/16"}, SubnetSize: 24, DataPathPort: 4789}}}
	golden(t, "info.golden", run{server: s}.run(t, "info").out)
	got := run{server: s}.run(t, "info", "--format", "{{.NodeID}} {{.Role}} {{len .Members}}")
	if got.out != "node1 manager 1\n" {
		t.Errorf("template: got %+v", got)
	}
}

func TestVersionWithoutDaemon(t *testing.T) {
	got := run{}.run(t, "version")
	if got.code != 0 || !strings.Contains(got.out, "Version:     v1.2.3") || !strings.Contains(got.errOut, "cannot reach the swarm daemon") {
		t.Errorf("got %+v", got)
	}
	got = run{}.run(t, "version", "-f", "{{.Client.Version}}")
	if got.code != 0 || got.out != "v1.2.3\n" || got.errOut != "" {
		t.Errorf("template: got %+v", got)
	}
}

func TestHost(t *testing.T) {
	for _, tc := range []struct {
		args string
		env  map[string]string
		want command.Target
	}{
		{"node ls", nil, command.Target{Network: "unix", Address: "/run/swarm/swarm.sock"}},
		{"-H unix:///x/y.sock node ls", nil, command.Target{Network: "unix", Address: "/x/y.sock"}},
		{"node ls -H /x/y.sock", nil, command.Target{Network: "unix", Address: "/x/y.sock"}},
		{"node ls", map[string]string{"SWARM_HOST": "tcp://m1"}, command.Target{Network: "tcp", Address: "m1:2377"}},
		{"--host m1:99 node --credential c.pem ls", map[string]string{"SWARM_HOST": "tcp://m2"}, command.Target{Network: "tcp", Address: "m1:99", Credential: "c.pem"}},
		{"-H m1 node ls", map[string]string{"HOME": "/home/u"}, command.Target{Network: "tcp", Address: "m1:2377", Credential: "/home/u/.config/swarm/credential.pem"}},
		{"-H m1 node ls", map[string]string{"SWARM_CREDENTIAL": "/c"}, command.Target{Network: "tcp", Address: "m1:2377", Credential: "/c"}},
		{"-H [fd00::1] service create --host a:10.0.0.1 --detach nginx", nil, command.Target{Network: "tcp", Address: "[fd00::1]:2377"}},
	} {
		var target command.Target
		got := run{server: &fakeServer{}, env: tc.env, target: &target}.run(t, strings.Fields(tc.args)...)
		if got.code != 0 || target != tc.want {
			t.Errorf("%s: got %+v, %+v, want %+v", tc.args, target, got, tc.want)
		}
	}
	for host, want := range map[string]string{
		"unix://x": "must be absolute", "http://x/y": "use unix:///PATH or tcp://HOST[:PORT]", "m1:70000": "is not a number", "fd00::1:x": "brackets", ":2377": "the host is missing",
	} {
		refused(t, host, run{server: &fakeServer{}}.run(t, "-H", host, "node", "ls"), want)
	}
}

func TestUnreachable(t *testing.T) {
	got := run{}.run(t, "node", "ls")
	want := "Error: cannot reach the swarm daemon at unix:///run/swarm/swarm.sock: is it running? (`swarm init` and `swarm join` start it, `swarm daemon` runs it in the foreground)\n"
	if got.errOut != want || got.code != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// A host that cannot be reached by TCP: the message names the daemon once, and asks one question.
func TestUnreachable_ByTCP(t *testing.T) {
	for _, why := range []string{
		"connection refused: is swarm running there?",
		"no route to it: are the two hosts on the same network?",
		"no answer: is the host up, and does a firewall let the port through?",
	} {
		s := &fakeServer{initErr: status.Error(codes.Unavailable, "10.0.0.9:9999: "+why)}
		got := run{server: s}.run(t, "-H", "tcp://10.0.0.9:9999", "init")
		want := "Error: cannot reach the swarm daemon at tcp://10.0.0.9:9999: " + why + "\n"
		if got.errOut != want || got.code != 1 {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	// What the daemon says of another host.
	for _, other := range []string{
		"exec in task t1: 10.0.0.3:2377: connection refused: is swarm running there?",
		"exec in task t1: 10.0.0.3:2377: no answer: is the host up, and does a firewall let the port through?",
	} {
		got := run{server: &fakeServer{initErr: status.Error(codes.Unavailable, other)}}.run(t, "init")
		if got.errOut != "Error: "+other+"\n" {
			t.Errorf("got %+v, want %q", got, other)
		}
	}
}

// A daemon that has taken the connection and says nothing is there, but hangs.
func TestUnreachable_Silent(t *testing.T) {
	s := &fakeServer{initErr: status.Error(codes.Unavailable, "raw-read unix @->/run/swarm/swarm.sock: use of closed network connection")}
	got := run{server: s}.run(t, "init")
	want := "Error: the swarm daemon at unix:///run/swarm/swarm.sock does not answer: it hangs, or its host is overloaded; see its log, or restart it\n"
	if got.errOut != want || got.code != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// A build without libseccomp warns where it begins to run containers.
func TestInit_WarnsWithoutSeccomp(t *testing.T) {
	for _, line := range []string{"init", "join --token " + pki.NewToken(testRoot(t).Cert).String() + " 10.0.0.1"} {
		for _, seccomp := range []bool{true, false} {
			s := &fakeServer{info: &swarmv1.InfoResponse{Version: &swarmv1.VersionInfo{Runc: "1.5.2", Seccomp: seccomp}}}
			got := run{server: s}.run(t, strings.Fields(line)...)
			want := ""
			if !seccomp {
				want = "Warning: containers run without a seccomp profile and may make any system call: this swarm was built without libseccomp\n"
			}
			if got.code != 0 || got.errOut != want {
				t.Errorf("%s, seccomp %v: got %+v, want %q", line, seccomp, got, want)
			}
		}
	}
}

func TestCredential(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jane.pem")
	s := &fakeServer{root: testRoot(t)}
	got := run{server: s}.run(t, "credential", "create", "jane", "-o", path)
	if got.code != 0 || got.out != path+"\n" || !strings.Contains(got.errOut, "swarm -H tcp://10.0.0.1:2377 --credential jane.pem node ls") {
		t.Fatalf("got %+v", got)
	}
	cred, roots, err := credential.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if cred.Cert.Subject.CommonName == "" || roots.ClusterID() != "cluster1" {
		t.Errorf("got subject %s, cluster %s", cred.Cert.Subject, roots.ClusterID())
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	refused(t, "again", run{server: s}.run(t, "credential", "create", "jane", "-o", path), "exists: name another file with -o")
	if _, _, err := credential.Read(filepath.Join(t.TempDir(), "no.pem")); err == nil || !strings.Contains(err.Error(), "swarm credential create") {
		t.Errorf("missing file: got %v", err)
	}
	if _, _, err := credential.Decode([]byte("junk")); err == nil {
		t.Error("junk was accepted")
	}
}

func TestDaemonFlags(t *testing.T) {
	var got daemon.Options
	r := run{daemon: func(_ context.Context, o daemon.Options) error { got = o; return nil }}
	if res := r.run(t, "daemon", "--state-dir", "/a/", "--run-dir", "/b", "--hostname", "h", "--log-level", "debug", "--cgroup-parent", "/x",
		"--insecure-registry", "r:5000", "--insecure-registry", "10.0.0.0/8", "--registry-certs-dir", "/certs",
		"--peer-bandwidth", "50MB/s", "--disk-clean-start", "90", "--image-max-age", "0", "--removed-logs-max-size", "5g", "--raft-timeout", "2s"); res.code != 0 {
		t.Fatalf("got %+v", res)
	}
	want := daemon.Options{
		StateDir: "/a", RunDir: "/b", Hostname: "h", LogLevel: "debug", LogFormat: "text", CgroupParent: "/x",
		InsecureRegistries: []string{"r:5000", "10.0.0.0/8"}, RegistryCertsDirs: []string{"/certs"},
		PeerBandwidth: 50_000_000, CleanStart: 90, CleanStop: 75, LogsAge: 168 * time.Hour, LogsSize: 5 << 30, RaftTimeout: 2 * time.Second, MetricsAddr: daemon.DefaultMetricsAddr,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	refused(t, "rate", r.run(t, "daemon", "--peer-bandwidth", "fast"), "such as 50MB/s")
	refused(t, "silence", r.run(t, "daemon", "--raft-timeout", "1ms"), "less than 100ms")
	refused(t, "age of logs", r.run(t, "daemon", "--removed-logs-max-age", "0"), "give a duration such as 168h")
	refused(t, "size of logs", r.run(t, "daemon", "--removed-logs-max-size", "0"), "such as 1g")
	refused(t, "marks", r.run(t, "daemon", "--disk-clean-start", "60"), "the first not less than the second")
	refused(t, "metrics for all", r.run(t, "daemon", "--metrics-addr", ":9377"), "0.0.0.0:9377 if that is meant")
	refused(t, "metrics", r.run(t, "daemon", "--metrics-addr", "9377"), "not ADDRESS:PORT")
	if res := r.run(t, "daemon", "--metrics-addr", "off"); res.code != 0 || got.MetricsAddr != "" || !got.MetricsAsked {
		t.Errorf("no metrics: got %+v, %+v", res, got)
	}
	refused(t, "scheme", r.run(t, "daemon", "--insecure-registry", "http://r:5000"), "leave the scheme away, as in r:5000")
	refused(t, "path", r.run(t, "daemon", "--insecure-registry", "r/x"), "neither HOST[:PORT] nor a network")
	refused(t, "relative", r.run(t, "daemon", "--state-dir", "x"), `--state-dir "x" is not an absolute path`)
	refused(t, "parent", r.run(t, "daemon", "--cgroup-parent", "x"), "use /NAME or NAME.slice")
	refused(t, "driver", r.run(t, "daemon", "--cgroup-driver", "systemd", "--cgroup-parent", "/x"), "use NAME.slice")
	refused(t, "slice", r.run(t, "daemon", "--cgroup-driver", "cgroupfs", "--cgroup-parent", "x.slice"), "use /NAME")
	refused(t, "long", r.run(t, "daemon", "--run-dir", "/"+strings.Repeat("x", 100)), "too long for sockets")
	refused(t, "level", r.run(t, "daemon", "--log-level", "loud"), "use one of debug, info, warn, error")
	r.daemon = func(context.Context, daemon.Options) error {
		return errors.New("state folder /a is locked by process 7")
	}
	refused(t, "fails", r.run(t, "daemon"), "Error: state folder /a is locked by process 7")
}
