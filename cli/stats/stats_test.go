package stats_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// rounds are two rounds with a task that runs on a node, one on a node that does not answer, and
// one that has ended.
func rounds() []*swarmv1.WatchStatsResponse {
	round := func(clock int64, cpu uint64) *swarmv1.WatchStatsResponse {
		task := func(id, name, node string, state swarmv1.TaskState, u *swarmv1.TaskUsage) *swarmv1.TaskStats {
			return &swarmv1.TaskStats{TaskId: id, Name: name, NodeName: node, State: state, Usage: u}
		}
		return &swarmv1.WatchStatsResponse{
			Tasks: []*swarmv1.TaskStats{
				task("task0000000000000000000001", "web.1", "host1", swarmv1.TaskState_RUNNING, &swarmv1.TaskUsage{
					TaskId: "task0000000000000000000001", Clock: clock, Cpu: cpu, Memory: 3 << 20, MemoryLimit: 12 << 20, Pids: 4,
					Received: 1234, Sent: 5678900, BlockRead: 0, BlockWritten: 4096,
				}),
				task("task0000000000000000000002", "web.2", "host2", swarmv1.TaskState_RUNNING, nil),
				task("task0000000000000000000003", "web.3", "host1", swarmv1.TaskState_FAILED, nil),
			},
			Nodes: []*swarmv1.HostStats{{NodeId: "n1", Name: "host1"}, {NodeId: "n2", Name: "host2", Error: "it is down"}},
		}
	}
	return []*swarmv1.WatchStatsResponse{round(1e9, 5e8), round(2e9, 2e9)}
}

func TestStats_NoStream(t *testing.T) {
	s := &clitest.Server{Rounds: rounds()}
	for name, args := range map[string][]string{
		"table": {"--all"}, "no-trunc": {"--no-trunc"}, "json": {"--format", "json"}, "template": {"--format", "{{.Name}}: {{.CPUPerc}} {{.State}}"},
	} {
		got := clitest.Run{Server: s}.Run(t, append([]string{"stats", "--no-stream"}, args...)...)
		clitest.Golden(t, name+".golden", got.Out)
		if want := "node host2 is not counted: it is down\n"; got.Code != 0 || got.ErrOut != want {
			t.Errorf("%s: got %+v, want %q on standard error", name, got, want)
		}
	}
	clitest.Run{Server: s}.Run(t, "stats", "--no-stream", "-a", "--node", "host1", "--node", "self", "web", "db.1")
	if r := s.StatsReq; !r.GetAll() || strings.Join(r.GetRefs(), " ") != "web db.1" || strings.Join(r.GetNodes(), " ") != "host1 self" {
		t.Errorf("asked for %v", r)
	}
}

// A field that does not exist is an error before a round comes.
func TestStats_UnknownField(t *testing.T) {
	clitest.Refused(t, "stats", clitest.Run{Server: &clitest.Server{}}.Run(t, "stats", "--format", "{{.Nosuch}}"), "there is no field .Nosuch")
}

func TestTop_Processes(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	s := &clitest.Server{Processes: &swarmv1.ProcessesResponse{TaskId: "web.1", More: 7, Processes: []*swarmv1.Process{
		{User: "root", Pid: 11, Parent: 3, Started: timestamppb.New(now.Add(-time.Hour)), Cpu: 3723e9, Command: "sleep 1000", Percent: 100},
		{User: "1000", Pid: 12, Parent: 11, Started: timestamppb.New(now.Add(-48 * time.Hour)), Tty: "pts/0", Command: "[sh]"},
	}}}
	got := clitest.Run{Server: s, Now: now}.Run(t, "top", "web.1")
	clitest.Golden(t, "top.golden", got.Out)
	if got.Code != 0 || got.ErrOut != "7 more processes are not shown\n" {
		t.Errorf("got %+v", got)
	}
	clitest.Refused(t, "top", clitest.Run{Server: s}.Run(t, "top", "db.1"), "db.1")
}
