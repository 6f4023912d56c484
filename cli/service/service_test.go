package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// created runs `service create` and returns the spec that was sent.
func created(t *testing.T, env map[string]string, args ...string) *swarmv1.ServiceSpec {
	t.Helper()
	s := &clitest.Server{}
	got := clitest.Run{Server: s, Env: env}.Run(t, append([]string{"service", "create", "--detach"}, args...)...)
	if got.Code != 0 || s.Created == nil {
		t.Fatalf("service create %q: got %+v", args, got)
	}
	return s.Created.Spec
}

func TestServiceCreateSpec(t *testing.T) {
	dir := t.TempDir()
	envFile := filepath.Join(dir, "env")
	profile := filepath.Join(dir, "seccomp.json")
	for path, text := range map[string]string{envFile: "# comment\nA=file\nC=3\nHOME\n", profile: "{}"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one := `mode{replicated{replicas:1}}`
	for _, tc := range []struct{ args, want string }{
		{"nginx", one + `task_template{container_spec{image:"nginx"}}`},
		{"--replicas 0 nginx sh -c env", `mode{replicated{}} task_template{container_spec{image:"nginx" args:["sh","-c","env"]}}`},
		{"--mode global nginx", `mode{global{}} task_template{container_spec{image:"nginx"}}`},
		{"--mode replicated-job --replicas 4 --max-concurrent 2 nginx", `mode{replicated_job{max_concurrent:2 total_completions:4}} task_template{container_spec{image:"nginx"}}`},
		{"--mode replicated-job --replicas 4 nginx", `mode{replicated_job{max_concurrent:4 total_completions:4}} task_template{container_spec{image:"nginx"}}`},
		{"-l a=b -l c --container-label d=e nginx", one + `labels{key:"a" value:"b"} labels{key:"c" value:""} task_template{container_spec{image:"nginx" labels{key:"d" value:"e"}}}`},
		{"-e A=1 -e B --env-file " + envFile + " -e NOPE nginx", one + `task_template{container_spec{image:"nginx" env:["A=1","C=3","HOME=/home/u","B=b"]}}`},
		{"-p 8080:80 -p 53:53/udp -p 9000-9001:90-91 -p 7 -p 0:8 -p 10.0.0.1:81:82 nginx", one + `task_template{container_spec{image:"nginx"}} endpoint_spec{
			ports{target_port:80 published_port:8080} ports{target_port:53 published_port:53 protocol:UDP} ports{target_port:90 published_port:9000}
			ports{target_port:91 published_port:9001} ports{target_port:7} ports{target_port:8} ports{target_port:82 published_port:81 host_ip:"10.0.0.1"}}`},
		{"-p 8000-8001:80 -p published=9000-9001,target=90-91,protocol=udp,ip=10.0.0.1 nginx", one + `task_template{container_spec{image:"nginx"}} endpoint_spec{
			ports{target_port:80 published_port:8000} ports{target_port:80 published_port:8001}
			ports{target_port:90 published_port:9000 protocol:UDP host_ip:"10.0.0.1"} ports{target_port:91 published_port:9001 protocol:UDP host_ip:"10.0.0.1"}}`},
		{"-p published=80,target=8080,mode=host,protocol=udp --endpoint-mode dnsrr nginx", one + `task_template{container_spec{image:"nginx"}} endpoint_spec{mode:DNSRR
			ports{target_port:8080 published_port:80 protocol:UDP publish_mode:HOST}}`},
		{
			"--mount type=bind,source=/a,target=/b,readonly,bind-propagation=rshared --mount src=data,dst=/data,volume-nocopy,volume-label=k=v --mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770 nginx",
			one + `task_template{container_spec{image:"nginx"
			mounts{type:BIND source:"/a" target:"/b" read_only:true bind_options{propagation:"rshared"}}
			mounts{type:VOLUME source:"data" target:"/data" volume_options{no_copy:true labels{key:"k" value:"v"}}}
			mounts{type:TMPFS target:"/t" tmpfs_options{size_bytes:1048576 mode:1016}}}}`,
		},
		{"--secret key --config source=conf,target=/etc/c,uid=7,mode=0400 nginx", one + `task_template{container_spec{image:"nginx"
			secrets{name:"key" file{name:"key" uid:"0" gid:"0" mode:292}} configs{name:"conf" file{name:"/etc/c" uid:"7" gid:"0" mode:256}}}}`},
		{"--limit-cpu .5 --limit-memory 512m --pids-limit 100 --reserve-cpu 0.25 --reserve-memory 64MiB --generic-resource gpu=2 --memory-swap -1 nginx", one + `task_template{container_spec{image:"nginx"}
			resources{limits{nano_cpus:500000000 memory_bytes:536870912 pids:100} reservations{nano_cpus:250000000 memory_bytes:67108864 generic{kind:"gpu" value:2}} swap_bytes:-1}}`},
		{"--limit-pids 0 nginx", one + `task_template{container_spec{image:"nginx"} resources{limits{pids:0}}}`},
		{"--restart-condition on-failure --restart-delay 1s --restart-max-attempts 3 --restart-window 1m nginx", one + `task_template{container_spec{image:"nginx"}
			restart_policy{condition:ON_FAILURE delay{seconds:1} max_attempts:3 window{seconds:60}}}`},
		{"--update-parallelism 0 --update-order start-first --rollback-delay 2s --update-max-failure-ratio 0.5 --update-failure-action rollback nginx", one + `task_template{container_spec{image:"nginx"}}
			update_config{order:START_FIRST max_failure_ratio:0.5 failure_action:ROLLBACK} rollback_config{parallelism:1 delay{seconds:2}}`},
		{"--health-cmd true --health-interval 1s --health-retries 4 --health-start-period 3s nginx", one + `task_template{container_spec{image:"nginx"
			healthcheck{test:["CMD-SHELL","true"] interval{seconds:1} retries:4 start_period{seconds:3}}}}`},
		{"--no-healthcheck nginx", one + `task_template{container_spec{image:"nginx" healthcheck{test:"NONE"}}}`},
		{"--constraint node.role==worker --placement-pref spread=node.labels.zone --replicas-max-per-node 2 nginx", one + `task_template{container_spec{image:"nginx"}
			placement{constraints:"node.role==worker" preferences{spread{spread_descriptor:"node.labels.zone"}} max_replicas:2}}`},
		{"--network backend --network name=front,alias=web,alias=www,driver-opt=a=b nginx", one + `task_template{container_spec{image:"nginx"} networks{target:"backend"}
			networks{target:"front" aliases:["web","www"] driver_opts{key:"a" value:"b"}}}`},
		{"--host db:10.0.0.9 --dns 1.1.1.1 --dns-option ndots:2 --dns-search example.org nginx", one + `task_template{container_spec{image:"nginx" hosts:"10.0.0.9 db"
			dns_config{nameservers:"1.1.1.1" options:"ndots:2" search:"example.org"}}}`},
		{"--init --read-only -t --privileged --hostname h -u 1:2 --group 7 -w /w --stop-signal SIGINT --stop-grace-period 3s --oom-score-adj -5 --shm-size 1m nginx", one + `task_template{container_spec{image:"nginx"
			init:true read_only:true tty:true privileged:true hostname:"h" user:"1:2" groups:"7" dir:"/w" stop_signal:"SIGINT" stop_grace_period{seconds:3} oom_score_adj:-5 shm_size:1048576}}`},
		{"--ulimit nofile=10:20 --sysctl net.core.somaxconn=5 --cap-add net_admin --cap-drop ALL --device /dev/null:/dev/x:rw nginx", one + `task_template{container_spec{image:"nginx"
			ulimits{name:"nofile" soft:10 hard:20} sysctls{key:"net.core.somaxconn" value:"5"} capability_add:"CAP_NET_ADMIN" capability_drop:"ALL"
			devices{path_on_host:"/dev/null" path_in_container:"/dev/x" cgroup_permissions:"rw"}}}`},
		{"--security-opt no-new-privileges --security-opt seccomp=" + profile + " --security-opt apparmor=unconfined nginx", one + `task_template{container_spec{image:"nginx"
			privileges{no_new_privileges:true seccomp{mode:CUSTOM profile:"{}"} apparmor{mode:DISABLED}}}}`},
		{"--log-driver local --log-opt max-size=1m --priority 5 --single-writer nginx", one + `priority:5 single_writer:true task_template{container_spec{image:"nginx"}
			log_driver{name:"local" options{key:"max-size" value:"1m"}}}`},
		{"--entrypoint sh nginx", one + `task_template{container_spec{image:"nginx" command:"sh"}}`},
	} {
		want := clitest.ParseSpec(t, tc.want)
		want.Name = "web"
		got := created(t, map[string]string{"HOME": "/home/u", "B": "b"}, append([]string{"--name", "web"}, strings.Fields(tc.args)...)...)
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("service create %s (-want +got):\n%s", tc.args, diff)
		}
	}
}

func TestServiceCreateWords(t *testing.T) {
	got := created(t, nil, "--entrypoint", `sh -c 'a "b" c' "d \"e\" \f"`, "redis:7")
	want := []string{"sh", "-c", `a "b" c`, `d "e" f`}
	if diff := cmp.Diff(want, got.TaskTemplate.ContainerSpec.Command); diff != "" {
		t.Errorf("entrypoint (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got.Name, "redis-") {
		t.Errorf("generated name: got %q, want redis-...", got.Name)
	}
}

func TestServiceCreateRefuses(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"--name -x nginx", `service name "-x" is not valid`},
		{"--name a.b nginx", `'.' is not allowed`},
		{"NGINX", `image "NGINX" is not a valid reference`},
		{"--replicas -1 nginx", `invalid argument "-1" for "--replicas" flag`},
		{"--mode global --replicas 2 nginx", "--replicas does not go with a global service"},
		{"--max-concurrent 2 nginx", "--max-concurrent does not go with a replicated service"},
		{"-p 80:80 -p 80:81 nginx", "port 80/tcp is published twice, for target ports 80 and 81"},
		{"-p 80:x nginx", `target port "x" is not a number from 1 to 65535`},
		{"-p 1-3:1-2 nginx", "not of the same length"},
		{"-p published=1-3,target=1-2 nginx", "not of the same length"},
		{"-p published=,target=80 nginx", "leave it out to have one chosen"},
		{"-p 3-1:3-1 nginx", "runs backwards"},
		{"-p 80:80/icmp nginx", "use tcp, udp or sctp"},
		{"-p published=80 nginx", "add target=PORT"},
		{"--mount type=bind,target=/x nginx", "a bind mount needs source=PATH"},
		{"--mount type=bind,source=x,target=/x nginx", "is not an absolute path (a volume is type=volume)"},
		{"--mount type=disk,target=/x nginx", `unknown type "disk": use bind, volume or tmpfs`},
		{"--mount target=x nginx", `target "x" is not an absolute path`},
		{"--mount target=/x,tmpfs-size=1 nginx", "tmpfs-* options do not belong to type=volume"},
		{"--constraint zone=east nginx", `--constraint: constraint "zone=east" has no operator`},
		{"--placement-pref zone nginx", "use spread=node.labels.LABEL"},
		{"--limit-memory lots nginx", "use a number of bytes with an optional unit"},
		{"--limit-cpu x nginx", "use a number of CPUs"},
		{"--limit-memory 1m --reserve-memory 2m nginx", "the memory reservation is larger than the memory limit"},
		{"--restart-delay -1s nginx", "--restart-delay -1s is negative"},
		{"--restart-condition sometimes nginx", "use one of none, on-failure, any"},
		{"--mode replicated-job --restart-condition any nginx", "a job cannot restart"},
		{"--update-max-failure-ratio 2 nginx", "out of range: use 0 to 1"},
		{"--oom-score-adj 2000 nginx", "out of range: use -1000 to 1000"},
		{"--no-healthcheck --health-cmd x nginx", "--no-healthcheck conflicts"},
		{"--health-cmd x --health-tcp y nginx", "--health-cmd and --health-tcp exclude each other"},
		{"--env =x nginx", "use NAME=VALUE"},
		{"--env-file /nonexistent nginx", "environment file /nonexistent cannot be read"},
		{"--host db nginx", "use HOST:IP"},
		{"--dns x nginx", `"x" is not an IP address`},
		{"--ulimit x nginx", "use NAME=SOFT[:HARD]"},
		{"--security-opt x=y nginx", `unknown security option "x"`},
		{"--device null nginx", "use /dev/HOST"},
		{"--entrypoint 'x nginx", "a quote is not closed"},
		{"--priority 5000 nginx", "priority 5000 is out of range"},
	} {
		s := &clitest.Server{}
		clitest.Refused(t, tc.args, clitest.Run{Server: s}.Run(t, append([]string{"service", "create"}, strings.Fields(tc.args)...)...), tc.want)
		if s.Created != nil {
			t.Errorf("%s: was sent", tc.args)
		}
	}
}

func TestServiceLists(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, args := range map[string][]string{
		"service-ls": {"service", "ls"}, "service-ls-quiet": {"service", "ls", "-q"}, "service-ls-json": {"service", "ls", "--format", "json"},
		"service-ps": {"service", "ps", "web"}, "service-ps-no-trunc": {"service", "ps", "--no-trunc", "web"}, "service-ps-quiet": {"service", "ps", "-q", "web"},
		"service-ps-template": {"service", "ps", "--format", "{{.Name}} {{.State}} {{.Error}}", "web"},
		"node-ps":             {"node", "ps", "host1"}, "task-ls": {"task", "ls"},
		"service-inspect": {"service", "inspect", "web"}, "service-inspect-pretty": {"service", "inspect", "--pretty", "web"},
		"task-inspect": {"task", "inspect", "taskaaaaaaaaaaaaaaaaaaaa3"},
	} {
		got := clitest.Run{Server: clitest.WebServer(t, now), Now: now}.Run(t, args...)
		if got.Code != 0 || got.ErrOut != "" {
			t.Errorf("%s: got %+v", name, got)
		}
		clitest.Golden(t, name+".golden", got.Out)
	}
}

// A removed service stays in the list until its tasks have stopped, and says so.
func TestServiceLists_Removing(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Services[0].Service.PendingDelete = true
	if got := (clitest.Run{Server: s}).Run(t, "service", "ls", "--format", "{{.Name}} {{.Replicas}}"); !strings.HasPrefix(got.Out, "web ") || !strings.Contains(got.Out, " (removing)\n") {
		t.Errorf("ls: got %+v", got)
	}
	if got := (clitest.Run{Server: s}).Run(t, "service", "inspect", "-f", "{{.PendingDelete}}", "web"); got.Out != "true\n" {
		t.Errorf("inspect: got %+v", got)
	}
}

func TestServiceUpdateSpec(t *testing.T) {
	base := clitest.WebServer(t, time.Now()).Services[0].Revision.Spec
	for _, tc := range []struct {
		args string
		edit func(*swarmv1.ServiceSpec)
	}{
		{"--image redis:8", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Image = "redis:8" }},
		{"--force", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ForceUpdate = 2 }},
		{"--replicas 5", func(s *swarmv1.ServiceSpec) { s.Mode.GetReplicated().Replicas = 5 }},
		{"--env-rm A --env-add C=3 --env-add B=9", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Env = []string{"B=9", "C=3"} }},
		{"--label-rm a --label-add x=y", func(s *swarmv1.ServiceSpec) { s.Labels = map[string]string{"x": "y"} }},
		{"--publish-rm 80 --publish-add 81:80", func(s *swarmv1.ServiceSpec) {
			s.EndpointSpec.Ports = []*swarmv1.PortConfig{s.EndpointSpec.Ports[1], {TargetPort: 80, PublishedPort: 81}}
		}},
		{"--publish-rm 53", func(*swarmv1.ServiceSpec) {}}, // that one is udp
		{"--publish-rm 53:53/udp", func(s *swarmv1.ServiceSpec) { s.EndpointSpec.Ports = s.EndpointSpec.Ports[:1] }},
		{"--mount-rm /data --mount-add type=tmpfs,target=/t", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Mounts = []*swarmv1.Mount{{Type: swarmv1.Mount_TMPFS, Target: "/t"}}
		}},
		{"--mount-add source=other,target=/data", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Mounts[0].Source = "other" }},
		{"--constraint-rm node.role==worker --constraint-add node.labels.a==b", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Placement.Constraints = []string{"node.labels.a==b"}
		}},
		{"--host-rm db:10.0.0.9", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Hosts = []string{"10.0.0.8 db"} }},
		{"--host-rm db", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Hosts = nil }},
		{"--cap-drop NET_ADMIN --cap-add CAP_SYS_TIME", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.CapabilityAdd = []string{"CAP_SYS_TIME"} }},
		{"--dns-rm 1.1.1.1 --dns-add 8.8.8.8", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.DnsConfig.Nameservers = []string{"8.8.8.8"}
		}},
		{"--network-rm net1 --network-add net2", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: "net2"}}
		}},
		{"--args sleep\t1", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Args = []string{"sleep", "1"} }},
		{"--update-order start-first", func(s *swarmv1.ServiceSpec) {
			s.UpdateConfig = &swarmv1.UpdateConfig{Parallelism: 1, Order: swarmv1.UpdateConfig_START_FIRST}
		}},
	} {
		want := base.CloneVT()
		tc.edit(want)
		s := clitest.WebServer(t, time.Now())
		got := clitest.Run{Server: s}.Run(t, append([]string{"service", "update", "--detach", "web"}, strings.Split(tc.args, " ")...)...)
		if got.Code != 0 || len(s.Updates) != 1 {
			t.Errorf("%s: got %+v", tc.args, got)
			continue
		}
		if diff := cmp.Diff(want, s.Updates[0].Spec, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Errorf("service update %s (-want +got):\n%s", tc.args, diff)
		}
		if s.Updates[0].Version != 7 {
			t.Errorf("%s: got version %d, want 7", tc.args, s.Updates[0].Version)
		}
	}
	clitest.Refused(t, "twice", clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, "service", "update", "--detach", "--publish-add", "8080:81", "web"), "port 8080/tcp is published twice")
}

func TestServiceScale(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Stale = 3
	got := clitest.Run{Server: s}.Run(t, "service", "scale", "-d", "web=7")
	if got.Code != 0 || got.Out != "web scaled to 7\n" || s.Updates[0].Spec.Mode.GetReplicated().Replicas != 7 {
		t.Errorf("got %+v", got)
	}
	for args, want := range map[string]string{"web": "use SERVICE=REPLICAS", "web=x": `invalid replicas value "x" for web`, "web=-1": "0 or more", "nope=1": "service nope: not found"} {
		clitest.Refused(t, args, clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, "service", "scale", "-d", args), want)
	}
}

func TestServiceRollback(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	clitest.Refused(t, "rollback", clitest.Run{Server: s}.Run(t, "service", "rollback", "-d", "web"), "service web has no previous specification")
	s.Services[0].Service.PreviousRevision = 1
	if got := (clitest.Run{Server: s}).Run(t, "service", "rollback", "-d", "web"); got.Code != 0 || !s.Updates[0].Rollback {
		t.Errorf("got %+v", got)
	}
}

// withHistory is webServer after two updates.
func withHistory(t *testing.T, now time.Time) *clitest.Server {
	t.Helper()
	s := clitest.WebServer(t, now)
	meta := func(ago time.Duration) *swarmv1.Meta {
		return &swarmv1.Meta{CreatedAt: timestamppb.New(now.Add(-ago))}
	}
	for n, replicas := range []uint64{1, 2} {
		old := s.Services[0].Revision.CloneVT()
		old.Number, old.Template, old.Actor, old.Meta = uint64(n+1), 1, "user jane", meta(time.Duration(3-n)*time.Hour)
		old.Spec.Mode.GetReplicated().Replicas = replicas
		old.Spec.TaskTemplate.ContainerSpec.Image = "docker.io/library/redis:6"
		s.Revisions = append(s.Revisions, old)
	}
	s.Revisions[1].Message = "two, for the sale"
	s.Services[0].Service.Revision, s.Services[0].Service.PreviousRevision = 3, 2
	s.Services[0].Revision.Number, s.Services[0].Revision.Actor, s.Services[0].Revision.Meta = 3, "local uid 0", meta(time.Minute)
	return s
}

func TestServiceHistory(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, args := range map[string]string{"service-history": "", "service-history-json": "--format json", "service-history-quiet": "-q"} {
		got := clitest.Run{Server: withHistory(t, now), Now: now}.Run(t, strings.Fields("service history web "+args)...)
		if got.Code != 0 || got.ErrOut != "" {
			t.Errorf("%s: got %+v", name, got)
		}
		clitest.Golden(t, name+".golden", got.Out)
	}
}

func TestServiceDiff(t *testing.T) {
	now := time.Now()
	server := func() *clitest.Server {
		s := withHistory(t, now)
		s.Revisions = append(s.Revisions, s.Services[0].Revision)
		return s
	}
	for args, name := range map[string]string{"web @1 @2": "service-diff-replicas.golden", "web": "service-diff-image.golden", "web 1": "service-diff-both.golden"} {
		got := clitest.Run{Server: server(), Now: now}.Run(t, strings.Fields("service diff "+args)...)
		if got.Code != 0 || got.ErrOut != "" {
			t.Errorf("%s: got %+v", args, got)
		}
		clitest.Golden(t, name, got.Out)
	}
	if got := (clitest.Run{Server: server(), Now: now}).Run(t, "service", "diff", "web", "@3", "@3"); got.Code != 0 || got.Out != "" {
		t.Errorf("a revision and itself: got %+v", got)
	}
	for args, want := range map[string]string{"web @9": "has no revision 9", "web x": "is not a number from 1", "web @1 @2 @3": "at most 3 arguments"} {
		clitest.Refused(t, args, clitest.Run{Server: server()}.Run(t, strings.Fields("service diff "+args)...), want)
	}
	got := clitest.Run{Server: server()}.Run(t, "service", "inspect", "-f", "{{.Spec.Mode.Replicated.Replicas}} {{.Revision}}", "web@1")
	if got.Out != "1 1\n" {
		t.Errorf("inspect of a revision: got %+v", got)
	}
}

// A rollback to a revision is an update to what that one asked for, with the image that it had.
func TestServiceRollbackTo(t *testing.T) {
	s := withHistory(t, time.Now())
	got := clitest.Run{Server: s}.Run(t, "service", "rollback", "-d", "--to", "1", "web")
	if got.Code != 0 || got.Out != "web\n" || len(s.Updates) != 1 {
		t.Fatalf("got %+v", got)
	}
	if u := s.Updates[0]; u.Rollback || !u.NoResolveImage || u.Version != 7 || !u.Spec.EqualVT(s.Revisions[0].Spec) {
		t.Errorf("got %v, want the specification of revision 1", u)
	}
	for to, want := range map[string]string{
		"9": "service web has no revision 9: list them with `swarm service history web`", "3": "revision 3 is the current one of service web", "0": "--to 0 is no revision",
	} {
		clitest.Refused(t, to, clitest.Run{Server: withHistory(t, time.Now())}.Run(t, "service", "rollback", "-d", "--to", to, "web"), want)
	}
}

func TestServiceRm(t *testing.T) {
	got := clitest.Run{Server: clitest.WebServer(t, time.Now())}.Run(t, "service", "rm", "nope", "web", "no")
	if got.Code != 1 || got.Out != "web\n" || got.ErrOut != "Error: service nope: not found; service no: not found\n" {
		t.Errorf("got %+v", got)
	}
}

func TestRegistryAuth(t *testing.T) {
	dir := t.TempDir()
	// jane:secret for registry.example.org
	config := `{"auths":{"https://registry.example.org/v1/":{"auth":"amFuZTpzZWNyZXQ="}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DOCKER_CONFIG": dir}
	s := &clitest.Server{}
	got := clitest.Run{Server: s, Env: env}.Run(t, "service", "create", "-d", "--with-registry-auth", "registry.example.org/app:1")
	want := "eyJ1c2VybmFtZSI6ImphbmUiLCJwYXNzd29yZCI6InNlY3JldCIsInNlcnZlcmFkZHJlc3MiOiJyZWdpc3RyeS5leGFtcGxlLm9yZyJ9"
	if got.Code != 0 || s.Created.RegistryAuth != want || s.Created.Spec.TaskTemplate.ContainerSpec.PullOptions.GetRegistryAuth() != want {
		t.Errorf("got %+v, %v", got, s.Created)
	}
	s = &clitest.Server{}
	clitest.Run{Server: s, Env: env}.Run(t, "service", "create", "-d", "other.example.org/app:1")
	if s.Created.RegistryAuth != "" || s.Created.Spec.TaskTemplate.ContainerSpec.PullOptions != nil {
		t.Errorf("another registry: got %v", s.Created)
	}
}
