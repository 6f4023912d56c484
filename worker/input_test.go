package worker_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

func TestWorker_ContainerGetsItsInputs(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		golang := &swarmv1.Driver{Name: "golang"}
		old := version("sec", 1, "old")
		config := version("cfg", 4, `{{.Task.Slot}} {{env "SLOT"}} {{secret "pw"}}`)
		config.GetDataVersion().Templating = golang
		rev := revisionObject(func(s *swarmv1.ServiceSpec) {
			c := s.TaskTemplate.ContainerSpec
			c.Env = []string{"SLOT={{.Task.Slot}}"}
			c.Hosts = []string{"10.9.8.7 db database"}
			c.DnsConfig = &swarmv1.DNSConfig{Nameservers: []string{"10.1.1.1"}, Search: []string{"a.example", "b.example"}, Options: []string{"ndots:2"}}
			c.Secrets = []*swarmv1.DataReference{{Id: "sec", Name: "pw", Number: 1, KeepPrevious: durationpb.New(time.Hour)}}
			c.Configs = []*swarmv1.DataReference{{Id: "cfg", Name: "app.conf", Number: 4, File: &swarmv1.FileTarget{Name: "/etc/app.conf", Uid: "5", Mode: 0o400}}}
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishMode: swarmv1.PortConfig_HOST}, {TargetPort: 81}}}
		})
		// The task arrives before its secrets, as after a restart, and waits for them.
		m.assign(puts(rev, taskObject("t1", running))...)
		m.assign(puts(config)...)
		m.assign(puts(old)...)
		s := m.waitState("t1", running)
		if len(s.PortStatus) != 1 || s.PortStatus[0].PublishedPort != 30000 {
			t.Errorf("ports: got %v, want one on 30000", s.PortStatus)
		}
		c, _ := r.runtime.Container("t1")
		want := []engine.File{
			{Path: "/run/secrets/pw", Data: []byte("old"), Mode: 0o444},
			{Path: "/run/secrets/pw.previous", Mode: 0o444},
			{Path: "/etc/app.conf", Data: []byte("1 1 old"), UID: "5", Mode: 0o400},
		}
		if diff := cmp.Diff(want, c.Files); diff != "" {
			t.Error(diff)
		}
		if got := c.Spec().Env; !cmp.Equal(got, []string{"SLOT=1"}) {
			t.Errorf("env: got %q, want SLOT=1 alone", got)
		}
		if got := read(t, c.ResolvConf); got != "nameserver 10.1.1.1\nsearch a.example b.example\noptions ndots:2\n" {
			t.Errorf("resolv.conf: got %q, want name server 10.1.1.1, two search domains and ndots:2", got)
		}
		hosts := read(t, c.HostsFile)
		for _, line := range []string{"127.0.0.1\tlocalhost\n", "10.0.0.1\tt1\n", "10.9.8.7\tdb database\n"} {
			if !strings.Contains(hosts, line) {
				t.Errorf("hosts lacks %q:\n%s", line, hosts)
			}
		}
		if got := read(t, c.HostnameFile); got != "t1\n" || c.Hostname != "t1" {
			t.Errorf("hostname: got file %q and %q, want t1", got, c.Hostname)
		}
	})
}

// version returns a version of a secret or config.
func version(id string, number uint64, data string) *swarmv1.Assignment {
	return &swarmv1.Assignment{Object: &swarmv1.Assignment_DataVersion{
		DataVersion: &swarmv1.DataVersion{ObjectId: id, Number: number, Data: []byte(data)},
	}}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestWorker_SecretsAreNotOnDisk(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		key := &swarmv1.EncryptionKey{Subsystem: "gossip", Key: []byte("also-hush-hush")}
		m.initial = []*swarmv1.Assignment{
			version("sec", 1, "hush-hush"),
			{Object: &swarmv1.Assignment_Key{Key: key}},
			revisionObject(func(s *swarmv1.ServiceSpec) {
				s.TaskTemplate.ContainerSpec.Secrets = []*swarmv1.DataReference{{Id: "sec", Name: "pw", Number: 1}}
			}),
			taskObject("t1", running),
		}
		var keys []*swarmv1.EncryptionKey
		r.edit = func(_ *worker.Config, d *worker.Deps) { d.OnKeys = func(k []*swarmv1.EncryptionKey) { keys = k } }
		r.start()
		m.waitState("t1", running)
		r.stop()
		if strings.Contains(read(t, r.dir+"/state.db"), "hush-hush") {
			t.Error("state.db has a secret")
		}
		if len(keys) != 1 || string(keys[0].Key) != "also-hush-hush" {
			t.Errorf("keys: got %v, want one with the second secret", keys)
		}
	})
}
