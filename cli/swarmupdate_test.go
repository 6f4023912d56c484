package cli_test

import (
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestSwarmUpdate(t *testing.T) {
	s := webServer(t, time.Now())
	s.cluster = &swarmv1.Cluster{Id: "cluster1"}
	refused(t, "nothing", run{server: s}.run(t, "update"), "name what to update")
	got := run{server: s}.run(t, "update", "--log-driver", "local", "--log-opt", "max-size=1m", "--log-opt", "max-file=3", "--task-history-limit", "7")
	if got.code != 0 || got.out != "Swarm updated.\n" {
		t.Fatalf("got %+v", got)
	}
	want := &swarmv1.Driver{Name: "local", Options: map[string]string{"max-size": "1m", "max-file": "3"}}
	if d := s.cluster.GetSpec().GetTaskDefaults().GetLogDriver(); !d.EqualVT(want) {
		t.Errorf("log driver %v, want %v", d, want)
	}
	if n := s.cluster.GetSpec().GetOrchestration().GetTaskHistoryRetentionLimit(); n != 7 {
		t.Errorf("history limit %d, want 7", n)
	}
	run{server: s}.run(t, "update", "--log-driver", "none")
	if d := s.cluster.GetSpec().GetTaskDefaults().GetLogDriver(); d.GetName() != "none" || len(d.GetOptions()) > 0 || s.cluster.GetSpec().GetOrchestration().GetTaskHistoryRetentionLimit() != 7 {
		t.Errorf("after another update: %v", s.cluster.GetSpec())
	}
	refused(t, "driver", run{server: s}.run(t, "update", "--log-driver", "syslog"), `log driver "syslog" is not one of this build: use local`)
	refused(t, "limit", run{server: s}.run(t, "update", "--task-history-limit", "101"), "task history limit 101 is out of range")
}
