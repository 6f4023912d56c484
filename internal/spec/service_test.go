package spec

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
)

func valid() *swarmv1.ServiceSpec {
	return &swarmv1.ServiceSpec{
		Name:         "web",
		TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "redis:7"}},
		EndpointSpec: &swarmv1.EndpointSpec{},
	}
}

func TestService_Defaults(t *testing.T) {
	s, err := Service(valid())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.TaskTemplate.ContainerSpec.Image; got != "docker.io/library/redis:7" {
		t.Errorf("image: got %q", got)
	}
	if got := s.Mode.GetReplicated().GetReplicas(); got != 1 {
		t.Errorf("replicas: got %d, want 1", got)
	}
	if got := s.TaskTemplate.RestartPolicy.Delay.AsDuration(); got != 5*time.Second {
		t.Errorf("restart delay: got %s, want 5s", got)
	}
	if got := s.UpdateConfig.Parallelism; got != 1 {
		t.Errorf("parallelism: got %d, want 1", got)
	}
	if got := s.TaskTemplate.Resources.Limits.GetPids(); got != DefaultPids {
		t.Errorf("limit of processes: got %d, want %d", got, DefaultPids)
	}
	unlimited := valid()
	unlimited.TaskTemplate.Resources = &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{Pids: proto.Int64(0)}}
	if u, err := Service(unlimited); err != nil || u.TaskTemplate.Resources.Limits.Pids == nil || u.TaskTemplate.Resources.Limits.GetPids() != 0 {
		t.Errorf("no limit of processes that was asked for: got %v, %v", u.GetTaskTemplate().GetResources(), err)
	}
	again, err := Service(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again, protocmp.Transform()); diff != "" {
		t.Errorf("a complete spec changes when it is completed again:\n%s", diff)
	}
}

func TestService_LeavesItsArgumentAlone(t *testing.T) {
	in := valid()
	if _, err := Service(in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(valid(), in, protocmp.Transform()); diff != "" {
		t.Errorf("the argument was changed:\n%s", diff)
	}
}

func container(edit func(*swarmv1.ContainerSpec)) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { edit(s.TaskTemplate.ContainerSpec) }
}

func reservations(lim, res *swarmv1.Resources) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Resources = &swarmv1.ResourceRequirements{Limits: lim, Reservations: res}
	}
}

func ports(list ...*swarmv1.PortConfig) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { s.EndpointSpec.Ports = list }
}

func env(values ...string) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Env = values }
}

func mounts(list ...*swarmv1.Mount) func(*swarmv1.ServiceSpec) {
	return container(func(c *swarmv1.ContainerSpec) { c.Mounts = list })
}

var refusals = []struct {
	name string
	edit func(*swarmv1.ServiceSpec)
	want string
}{
	{"single writer on every node", func(s *swarmv1.ServiceSpec) {
		s.SingleWriter, s.Mode = true, &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
	}, "single-writer is for replicated services"},
	{"single writer as a job", func(s *swarmv1.ServiceSpec) {
		s.SingleWriter, s.Mode = true, &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{}}}
	}, "single-writer is for replicated services"},
	{"single writer beside its successor", func(s *swarmv1.ServiceSpec) {
		s.SingleWriter, s.UpdateConfig = true, &swarmv1.UpdateConfig{Order: swarmv1.UpdateConfig_START_FIRST}
	}, "update order start-first exclude each other"},
	{"single writer beside its predecessor", func(s *swarmv1.ServiceSpec) {
		s.SingleWriter, s.RollbackConfig = true, &swarmv1.UpdateConfig{Order: swarmv1.UpdateConfig_START_FIRST}
	}, "rollback order start-first exclude each other"},
	{"no name", func(s *swarmv1.ServiceSpec) { s.Name = "" }, "service name is empty"},
	{"bad name", func(s *swarmv1.ServiceSpec) { s.Name = "a.b" }, "is not valid"},
	{"long name", func(s *swarmv1.ServiceSpec) { s.Name = strings.Repeat("a", 64) }, "too long"},
	{"no image", container(func(c *swarmv1.ContainerSpec) { c.Image = "" }), "image is empty"},
	{"bad image", container(func(c *swarmv1.ContainerSpec) { c.Image = "Redis" }), "is not a reference"},
	{"replicas", func(s *swarmv1.ServiceSpec) {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: math.MaxUint64}}}
	}, "replicas 18446744073709551615 is out of range"},
	{"priority", func(s *swarmv1.ServiceSpec) { s.Priority = 1001 }, "priority 1001 is out of range: use -1000 to 1000"},
	{"ratio", func(s *swarmv1.ServiceSpec) { s.UpdateConfig = &swarmv1.UpdateConfig{MaxFailureRatio: 1.5} }, "update max-failure-ratio 1.5 is out of range"},
	{"NaN ratio", func(s *swarmv1.ServiceSpec) {
		s.UpdateConfig = &swarmv1.UpdateConfig{MaxFailureRatio: float32(math.NaN())}
	}, "is out of range"},
	{"endless rollback", func(s *swarmv1.ServiceSpec) {
		s.RollbackConfig = &swarmv1.UpdateConfig{FailureAction: swarmv1.UpdateConfig_ROLLBACK}
	}, "would never end"},
	{"negative delay", func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{Delay: durationpb.New(-time.Second)}
	}, "restart delay -1s is negative"},
	{"constraint", func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"zone==x"}}
	}, "which nodes do not have"},
	{"preference", func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Placement = &swarmv1.Placement{Preferences: []*swarmv1.PlacementPreference{{}}}
	}, "cannot be spread over"},
	{"port taken twice", ports(&swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080}, &swarmv1.PortConfig{TargetPort: 81, PublishedPort: 8080}), "port 8080/tcp is published twice"},
	{"port in two modes", ports(&swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080}, &swarmv1.PortConfig{TargetPort: 81, PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}), "through the mesh and on the host"},
	{"no target port", ports(&swarmv1.PortConfig{PublishedPort: 8080}), "target port 0 is out of range"},
	{"port on an address and on all", ports(hostIPPort("192.0.2.1", 81), hostIPPort("", 80)), "port 8080/tcp is published twice"},
	{"port on one address twice", ports(hostIPPort("192.0.2.1", 81), hostIPPort("192.0.2.2", 80), hostIPPort("::ffff:192.0.2.1", 80)), "port 8080/tcp is published twice"},
	{"mesh port on an address and on all", ports(
		&swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, HostIp: "0.0.0.0"}, &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, HostIp: "192.0.2.2"},
	), "port 8080/tcp is published twice"},
	{"mesh port on network host", portOn("host", &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 80}), "port 80:80/tcp cannot be published on network host, where tasks have the host's own ports"},
	{"another port on network host", portOn("host", &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}), "on network host"},
	{"port on network none", portOn("none", &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 80, PublishMode: swarmv1.PortConfig_HOST}), "on network none"},
	{"published port", ports(&swarmv1.PortConfig{TargetPort: 80, PublishedPort: 70000}), "published port 70000 is out of range"},
	{"host ip", ports(&swarmv1.PortConfig{TargetPort: 80, HostIp: "localhost"}), "is not an IP address"},
	{"mesh without address", func(s *swarmv1.ServiceSpec) {
		s.EndpointSpec = &swarmv1.EndpointSpec{Mode: swarmv1.EndpointSpec_DNSRR, Ports: []*swarmv1.PortConfig{{TargetPort: 80}}}
	}, "needs a virtual address"},
	{"tiny memory", reservations(&swarmv1.Resources{MemoryBytes: 1}, nil), "at least 4 MiB"},
	{"tiny cpu", reservations(nil, &swarmv1.Resources{NanoCpus: 1}), "CPU reservation 1e-09 is too small"},
	{"negative cpu", reservations(&swarmv1.Resources{NanoCpus: -5e9}, nil), "CPU limit -5 is too small"},
	{"reservation above limit", reservations(&swarmv1.Resources{MemoryBytes: 8 << 20}, &swarmv1.Resources{MemoryBytes: 9 << 20}), "is above the limit"},
	{"generic", reservations(nil, &swarmv1.Resources{Generic: []*swarmv1.GenericResource{{Kind: "gpu"}}}), "asks for 0"},
	{"relative mount", mounts(&swarmv1.Mount{Source: "/a", Target: "b"}), "is not absolute"},
	{"mount over the image", mounts(&swarmv1.Mount{Source: "/a", Target: "/x/.."}), "would hide the image"},
	{"mount twice", mounts(&swarmv1.Mount{Source: "/a", Target: "/x"}, &swarmv1.Mount{Source: "/b", Target: "/x/"}), "is used twice"},
	{"bind without source", mounts(&swarmv1.Mount{Target: "/x"}), "has no source"},
	{"volume that is no folder's name", mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: "..", Target: "/x"}), "must start with a letter or digit"},
	{"mount of an image", mounts(&swarmv1.Mount{Type: swarmv1.Mount_IMAGE, Source: "app:1", Target: "/x"}), "cannot mount images yet"},
	{"volume driver", mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Target: "/x", VolumeOptions: &swarmv1.VolumeOptions{
		DriverConfig: &swarmv1.Driver{Name: "nfs"},
	}}), "nodes have only the driver local"},
	{"driver options without a name", mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Target: "/x", VolumeOptions: &swarmv1.VolumeOptions{
		DriverConfig: &swarmv1.Driver{Options: map[string]string{"type": "nfs", "device": ":/x"}},
	}}), "add source=NAME"},
	{"template of an unknown field", mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: "v{{.Task.Nope}}", Target: "/x"}), "Nope"},
	{"template without an end", env("X={{ not closed"), `env "X={{ not closed" is not a valid template`},
	{"volume with slash", mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: "a/b", Target: "/x"}), "holds a slash"},
	{"env", container(func(c *swarmv1.ContainerSpec) { c.Env = []string{"=x"} }), "write KEY=VALUE"},
	{"signal", container(func(c *swarmv1.ContainerSpec) { c.StopSignal = "SIGNOT" }), "stop signal \"SIGNOT\" is not known"},
	{"signal number", container(func(c *swarmv1.ContainerSpec) { c.StopSignal = "65" }), "out of range"},
	{"health", container(func(c *swarmv1.ContainerSpec) { c.Healthcheck = &swarmv1.HealthConfig{Test: []string{"RUN", "x"}} }), "is not known"},
	{"ulimit", container(func(c *swarmv1.ContainerSpec) { c.Ulimits = []*swarmv1.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}} }), "above its hard limit"},
	{"capability", container(func(c *swarmv1.ContainerSpec) { c.CapabilityAdd = []string{"net admin"} }), "is not known: use a name such as CAP_NET_ADMIN"},
	{"capability that Linux does not have", container(func(c *swarmv1.ContainerSpec) { c.CapabilityDrop = []string{"CAP_FLY"} }), `"CAP_FLY" is not known`},
	{"sysctl of the host", container(func(c *swarmv1.ContainerSpec) { c.Sysctls = map[string]string{"kernel.panic": "1"} }), "is a setting of the host, not of the container"},
	{"health check that is no URL", container(func(c *swarmv1.ContainerSpec) {
		c.Healthcheck = &swarmv1.HealthConfig{Test: []string{"HTTP", "ftp://x"}}
	}), "is not a URL"},
	{"health check without a port", container(func(c *swarmv1.ContainerSpec) {
		c.Healthcheck = &swarmv1.HealthConfig{Test: []string{"TCP", "localhost"}}
	}), "is not HOST:PORT"},
	{"health check with a port out of range", container(func(c *swarmv1.ContainerSpec) {
		c.Healthcheck = &swarmv1.HealthConfig{Test: []string{"GRPC", ":70000"}}
	}), "is not HOST:PORT"},
	{"two secrets at one path", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a"}, {Name: "b", File: &swarmv1.FileTarget{Name: "a"}}}
	}), "already taken"},
	{"a secret at the previous version of another", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a", KeepPrevious: durationpb.New(time.Hour)}, {Name: "b", File: &swarmv1.FileTarget{Name: "a.previous"}}}
	}), "already taken"},
	{"config at the root", container(func(c *swarmv1.ContainerSpec) {
		c.Configs = []*swarmv1.DataReference{{Name: "a", File: &swarmv1.FileTarget{Name: "/"}}}
	}), "is the root folder"},
	{"pinned secret with an action", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a", Number: 3, Pinned: true, OnUpdate: &swarmv1.OnUpdate{}}}
	}), "is pinned to a version and never changes"},
	{"secret with an unknown signal", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a", OnUpdate: &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_SIGNAL, Signal: "HUPP"}}}
	}), `on-update signal "HUPP" is not known`},
	{"secret with an empty command", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a", OnUpdate: &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_EXEC}}}
	}), "runs no command"},
	{"secret with a short overlap", container(func(c *swarmv1.ContainerSpec) {
		c.Secrets = []*swarmv1.DataReference{{Name: "a", KeepPrevious: durationpb.New(time.Millisecond)}}
	}), "keep-previous of secret \"a\" is 1ms"},
	{"network twice", func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: "a"}, {Target: "a"}}
	}, "is named twice"},
	{"host and another", func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: "host"}, {Target: "a"}}
	}, "cannot be combined"},
	{"platform", container(func(c *swarmv1.ContainerSpec) { c.Platform = "amd64" }), "write it like linux/amd64"},
}

func TestService_Refuses(t *testing.T) {
	if _, err := Service(nil); err == nil {
		t.Error("nil spec accepted")
	}
	for _, c := range refusals {
		s := valid()
		c.edit(s)
		_, err := Service(s)
		wantRefusal(t, c.name, err, c.want)
	}
}

func TestService_Accepts(t *testing.T) {
	for name, edit := range map[string]func(*swarmv1.ServiceSpec){
		"a constraint that matches nothing": func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.labels.zone==nowhere"}}
		},
		"a reservation that no node can hold": reservations(nil, &swarmv1.Resources{NanoCpus: 1e15}),
		"one port for two protocols":          ports(&swarmv1.PortConfig{TargetPort: 53, PublishedPort: 53}, &swarmv1.PortConfig{TargetPort: 53, PublishedPort: 53, Protocol: swarmv1.PortConfig_UDP}),
		"signals of all kinds":                container(func(c *swarmv1.ContainerSpec) { c.StopSignal = "RTMIN+3" }),
		"an unlimited ulimit":                 container(func(c *swarmv1.ContainerSpec) { c.Ulimits = []*swarmv1.Ulimit{{Name: "core", Soft: -1, Hard: -1}} }),
		"a template that depends on the node": env(`X={{index (split .Node.Hostname "-") 2}}`),
		"a templated volume name":             mounts(&swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: "data-{{.Task.Slot}}", Target: "/x"}),
		"a templated hostname":                container(func(c *swarmv1.ContainerSpec) { c.Hostname = "{{.Node.Hostname}}-{{.Task.Slot}}" }),
	} {
		s := valid()
		edit(s)
		if _, err := Service(s); err != nil {
			t.Errorf("%s: refused: %v", name, err)
		}
	}
}

func TestNextRevision_Template(t *testing.T) {
	one, err := Service(valid())
	if err != nil {
		t.Fatal(err)
	}
	first := NextRevision("s", nil, 0, one, Author{Actor: "me"})
	scaled := one.CloneVT()
	scaled.Mode.GetReplicated().Replicas = 7
	second := NextRevision("s", first, 1, scaled, Author{Actor: "me"})
	other := scaled.CloneVT()
	other.TaskTemplate.ForceUpdate = 1
	third := NextRevision("s", second, 2, other, Author{Actor: "me"})
	got := []uint64{first.Number, first.Template, second.Number, second.Template, third.Number, third.Template}
	if diff := cmp.Diff([]uint64{1, 1, 2, 1, 3, 3}, got); diff != "" {
		t.Errorf("numbers and templates (-want +got):\n%s", diff)
	}
	if r := NextRevision("s", first, 3, other, Author{Actor: "me"}); r.Number != 4 {
		t.Errorf("number after a roll back to the first of three: got %d, want 4", r.Number)
	}
}

func TestSameTasks_LimitsChangeInPlace(t *testing.T) {
	at := func(r *swarmv1.ResourceRequirements) *swarmv1.ServiceSpec {
		return &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{Resources: r}}
	}
	gpu := []*swarmv1.GenericResource{{Kind: "gpu", Value: 1}}
	swap, swappy := int64(1), int64(2)
	for _, tc := range []struct {
		name         string
		r            *swarmv1.ResourceRequirements
		tasks, equal bool // compared with none
	}{
		{"none", &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{}, Reservations: &swarmv1.Resources{}}, true, true},
		{"cpu", &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{NanoCpus: 1}}, true, false},
		{"memory", &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{MemoryBytes: 1}}, true, false},
		{"pids", &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{Pids: proto.Int64(1)}}, true, false},
		{"reserved", &swarmv1.ResourceRequirements{Reservations: &swarmv1.Resources{NanoCpus: 1, MemoryBytes: 1}}, true, false},
		{"swap", &swarmv1.ResourceRequirements{SwapBytes: &swap}, true, false},
		{"swappiness", &swarmv1.ResourceRequirements{MemorySwappiness: &swappy}, false, true},
		{"generic", &swarmv1.ResourceRequirements{Reservations: &swarmv1.Resources{Generic: gpu}}, false, true},
	} {
		if got := SameTasks(at(nil), at(tc.r)); got != tc.tasks {
			t.Errorf("%s: same tasks: got %v", tc.name, got)
		}
		if got := LimitsOf(at(nil)) == LimitsOf(at(tc.r)); got != tc.equal {
			t.Errorf("%s: same limits: got %v", tc.name, got)
		}
	}
}

func TestCluster(t *testing.T) {
	c, err := Cluster(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Orchestration.TaskHistoryRetentionLimit != 5 || c.Dispatcher.HeartbeatPeriod.AsDuration() != time.Second || c.Network.ClusterPort != 2377 {
		t.Errorf("defaults: got %v", c)
	}
	for want, in := range map[string]*swarmv1.ClusterSpec{
		"task history limit 101 is out of range":    {Orchestration: &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: 101}},
		"node certificate expiry 1s is too short":   {CaConfig: &swarmv1.CAConfig{NodeCertExpiry: durationpb.New(time.Second)}},
		"is not above the heartbeat period":         {Dispatcher: &swarmv1.DispatcherConfig{SessionTimeout: durationpb.New(time.Second)}},
		"address pool \"10.0.0.1/8\" has host bits": {Network: &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.0.0.1/8"}}},
		"address pool \"10.0.0.0/30\" is smaller":   {Network: &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.0.0.0/30"}}},
		"address pool fd00::/8 is not one of IPv4":  {Network: &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"fd00::/8"}}},
		"gossip port 70000 is out of range":         {Network: &swarmv1.NetworkDefaults{GossipPort: 70000}},
	} {
		_, err := Cluster(in)
		wantRefusal(t, want, err, want)
	}
}

func TestSecretConfigNetworkNode(t *testing.T) {
	wantRefusal(t, "empty secret", SecretKind().CheckData(&swarmv1.DataSpec{Name: "a"}, nil), "is empty")
	large := make([]byte, 500*1024+1)
	wantRefusal(t, "large secret", SecretKind().CheckData(&swarmv1.DataSpec{Name: "a"}, large), "at most 512000")
	if err := ConfigKind().CheckData(&swarmv1.DataSpec{Name: "a"}, large); err != nil {
		t.Errorf("config of 500 KB: %v", err)
	}
	templated := &swarmv1.DataSpec{Name: "a", Templating: &swarmv1.Driver{Name: TemplateDriver}}
	err := SecretKind().CheckData(templated, []byte("user=a\npassword={{hunter2}}"))
	wantRefusal(t, "template", err, "is not a valid template: line 2")
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error has the data: %v", err)
	}
	_, err = ConfigKind().Spec(&swarmv1.DataSpec{Name: "a", Templating: &swarmv1.Driver{Name: "jinja"}})
	wantRefusal(t, "template driver", err, "use golang")
	_, err = Network(&swarmv1.NetworkSpec{Name: "a", DriverConfig: &swarmv1.Driver{Name: "macvlan"}})
	wantRefusal(t, "driver", err, "is not known")
	_, err = Network(&swarmv1.NetworkSpec{Name: "a", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.1.0.0/24", Gateway: "10.2.0.1"}}}})
	wantRefusal(t, "gateway", err, "is not inside subnet")
	_, err = Node(&swarmv1.NodeSpec{Role: 7})
	wantRefusal(t, "role", err, "use worker or manager")
	_, err = Node(&swarmv1.NodeSpec{Labels: map[string]string{"": "x"}})
	wantRefusal(t, "label", err, "has no key")
}

func portOn(network string, p *swarmv1.PortConfig) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		ports(p)(s)
		s.TaskTemplate.Networks = []*swarmv1.NetworkAttachmentConfig{{Target: network}}
	}
}

func hostIPPort(ip string, target uint32) *swarmv1.PortConfig {
	return &swarmv1.PortConfig{TargetPort: target, PublishedPort: 8080, HostIp: ip, PublishMode: swarmv1.PortConfig_HOST}
}

func TestService_OnePortOnTwoAddresses(t *testing.T) {
	s := &swarmv1.ServiceSpec{
		Name: "dns", TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Image: "dns"}},
		EndpointSpec: &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{hostIPPort("192.0.2.1", 80), hostIPPort("2001:db8::1", 80)}},
	}
	for _, mode := range []swarmv1.PortConfig_PublishMode{swarmv1.PortConfig_HOST, swarmv1.PortConfig_INGRESS} {
		for _, p := range s.EndpointSpec.Ports {
			p.PublishMode = mode
		}
		if _, err := Service(s); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
