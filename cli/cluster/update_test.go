package cluster_test

import (
	"testing"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestSwarmUpdate(t *testing.T) {
	s := clitest.WebServer(t, time.Now())
	s.Cluster = &swarmv1.Cluster{Id: "cluster1"}
	clitest.Refused(t, "nothing", clitest.Run{Server: s}.Run(t, "update"), "name what to update")
	got := clitest.Run{Server: s}.Run(t, "update", "--log-driver", "local", "--log-opt", "max-size=1m", "--log-opt", "max-file=3", "--task-history-limit", "7")
	if got.Code != 0 || got.Out != "Swarm updated.\n" {
		t.Fatalf("got %+v", got)
	}
	want := &swarmv1.Driver{Name: "local", Options: map[string]string{"max-size": "1m", "max-file": "3"}}
	if d := s.Cluster.GetSpec().GetTaskDefaults().GetLogDriver(); !d.EqualVT(want) {
		t.Errorf("log driver %v, want %v", d, want)
	}
	if n := s.Cluster.GetSpec().GetOrchestration().GetTaskHistoryRetentionLimit(); n != 7 {
		t.Errorf("history limit %d, want 7", n)
	}
	clitest.Run{Server: s}.Run(t, "update", "--log-driver", "none")
	if d := s.Cluster.GetSpec().GetTaskDefaults().GetLogDriver(); d.GetName() != "none" || len(d.GetOptions()) > 0 || s.Cluster.GetSpec().GetOrchestration().GetTaskHistoryRetentionLimit() != 7 {
		t.Errorf("after another update: %v", s.Cluster.GetSpec())
	}
	clitest.Refused(t, "driver", clitest.Run{Server: s}.Run(t, "update", "--log-driver", "syslog"), `log driver "syslog" is not known: use local`)
	clitest.Refused(t, "limit", clitest.Run{Server: s}.Run(t, "update", "--task-history-limit", "101"), "task history limit 101 is out of range")
}
