package service_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// play changes the server's tasks at moments after the service was created.
func play(steps ...step) func(*clitest.Server, string) {
	return func(s *clitest.Server, id string) {
		go func() {
			for _, st := range steps {
				time.Sleep(st.after)
				s.Change(func() { st.edit(s) })
			}
		}()
	}
}

type step struct {
	after time.Duration
	edit  func(*clitest.Server)
}

func set(tasks ...*swarmv1.TaskInfo) func(*clitest.Server) {
	return func(s *clitest.Server) { s.Tasks = tasks }
}

func TestWait_Converges(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &clitest.Server{OnCreate: play(
			step{10 * time.Millisecond, set(clitest.Task("t1", 1, swarmv1.TaskState_PREPARING, 0, began), clitest.Task("t2", 2, swarmv1.TaskState_ASSIGNED, 0, began))},
			step{200 * time.Millisecond, set(clitest.Task("t1", 1, swarmv1.TaskState_RUNNING, 0, began), clitest.Task("t2", 2, swarmv1.TaskState_STARTING, 0, began))},
			step{200 * time.Millisecond, set(clitest.Task("t1", 1, swarmv1.TaskState_RUNNING, 0, began), clitest.Task("t2", 2, swarmv1.TaskState_RUNNING, 0, began))},
		)}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "--replicas", "2", "nginx")
		if got.Code != 0 || got.Out != "svc0000000000000000000001\n" {
			t.Errorf("got %+v", got)
		}
		want := `Warning: be careful
overall progress: 0 out of 2 tasks
1/2: preparing
2/2: assigned
overall progress: 1 out of 2 tasks
1/2: running
2/2: starting
overall progress: 2 out of 2 tasks
2/2: running
verify: Waiting to verify that tasks are stable...
verify: Service web converged
`
		if got.ErrOut != want {
			t.Errorf("got\n%s\nwant\n%s", got.ErrOut, want)
		}
		if took := time.Since(began); took < 5400*time.Millisecond || took > 6*time.Second {
			t.Errorf("took %s, want the tasks' 0.4 s and 5 s of verifying", took)
		}
	})
}

func TestWait_CrashLoop(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		fail := func(id string, age time.Duration) *swarmv1.TaskInfo {
			f := clitest.Task(id, 1, swarmv1.TaskState_FAILED, age, now)
			f.Status.Err = "task: non-zero exit (3)"
			return f
		}
		s := &clitest.Server{
			Records: []*swarmv1.LogRecord{{TaskId: "t3", Stream: swarmv1.LogRecord_STDERR, Data: []byte("no such database\n")}, {TaskId: "t3", Data: []byte("bye")}},
			OnCreate: play(
				step{10 * time.Millisecond, set(fail("t1", 3*time.Second), clitest.Task("t2", 1, swarmv1.TaskState_READY, 2*time.Second, now))},
				step{5 * time.Second, set(fail("t1", 3*time.Second), fail("t2", 2*time.Second), clitest.Task("t3", 1, swarmv1.TaskState_READY, time.Second, now))},
				step{5 * time.Second, set(fail("t1", 3*time.Second), fail("t2", 2*time.Second), fail("t3", time.Second), clitest.Task("t4", 1, swarmv1.TaskState_READY, 0, now))},
			),
		}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "nginx")
		if got.Code != 1 || got.Out != "svc0000000000000000000001\n" {
			t.Errorf("got %+v", got)
		}
		want := `last lines of web.1 (t3):
  no such database
  bye
Error: task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3); service web stays as asked for, and its tasks are started again until they run; see ` + "`swarm service ps web`\n"
		if !strings.HasSuffix(got.ErrOut, want) {
			t.Errorf("got\n%s\nwant at the end\n%s", got.ErrOut, want)
		}
		if s.LogsReq.Task != "t3" || s.LogsReq.Options.Tail != 10 {
			t.Errorf("logs asked for: %v", s.LogsReq)
		}
	})
}

func TestWait_Unplaced(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stuck := clitest.Task("t1", 1, swarmv1.TaskState_PENDING, 0, began)
		stuck.Task.NodeId, stuck.NodeName = "", ""
		stuck.Status.Unplaced = &swarmv1.Unplaced{
			Refusals: []*swarmv1.Refusal{{Filter: "constraint", Nodes: 4, Reason: "node.labels.zone==east does not hold"}, {Filter: "down", Nodes: 1, Reason: "it is down"}},
			Nearest:  "host3 has zone west",
		}
		s := &clitest.Server{OnCreate: play(step{10 * time.Millisecond, set(stuck)})}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "--constraint", "node.labels.zone==east", "nginx")
		want := `no node takes a task of web:
  4 nodes: node.labels.zone==east does not hold
  1 node: it is down
  nearest: host3 has zone west
Error: 1 of 1 tasks cannot be placed: no suitable node (4 nodes: node.labels.zone==east does not hold; 1 node: it is down); nearest: host3 has zone west; service web stays as asked for, and starts its tasks as soon as nodes take them; see ` +
			"`swarm service ps web`; label a node with `swarm node update --label-add KEY=VALUE NODE`, or change the constraint\n"
		if got.Code != 1 || !strings.HasSuffix(got.ErrOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("took %s, want 2 s", took)
		}
	})
}

func TestWait_Interrupted(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &clitest.Server{OnCreate: play(step{100 * time.Millisecond, func(*clitest.Server) { cancel() }})}
		got := clitest.Run{Server: s}.RunContext(ctx, t, "service", "create", "--name", "web", "nginx")
		if got.Code != 0 || !strings.HasSuffix(got.ErrOut, "Operation continuing in background.\nUse `swarm service ps web` to check progress.\n") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestWait_RemovedMeanwhile(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := &clitest.Server{OnCreate: play(step{100 * time.Millisecond, func(s *clitest.Server) { s.Services = nil }})}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "nginx")
		if got.Code != 1 || !strings.Contains(got.ErrOut, "Error: service web was removed while waiting for it") {
			t.Errorf("got %+v", got)
		}
	})
}

// Once a service has settled, its user hears where it does not answer: each thing once.
func TestWait_WarnsOfNodesThatDoNotAnswer(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		elsewhere := func(port uint32) *swarmv1.PortConflict {
			return &swarmv1.PortConflict{Port: port, Protocol: "tcp", Address: "192.0.2.7", Kind: swarmv1.PortConflict_ELSEWHERE, Reason: "no such address"}
		}
		nodes := clitest.Nodes()
		nodes[0].State.Description.PortConflicts = []*swarmv1.PortConflict{
			elsewhere(82), elsewhere(83),
			{Port: 82, Protocol: "tcp", Reason: "not this one"},
			{Port: 80, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: operation not supported"},
			{Port: 81, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: operation not supported"},
		}
		nodes[1].State.Description.PortConflicts = []*swarmv1.PortConflict{
			elsewhere(82), {Port: 80, Protocol: "tcp", Reason: "port 80/tcp is in use on this host by nginx (process 7)"},
		}
		s := &clitest.Server{Nodes: nodes, OnCreate: play(step{10 * time.Millisecond, func(s *clitest.Server) {
			set(clitest.Task("t1", 1, swarmv1.TaskState_RUNNING, 0, began))(s)
			s.Services[0].Endpoint = &swarmv1.Endpoint{Ports: []*swarmv1.PortConfig{
				{TargetPort: 80, PublishedPort: 80},
				{TargetPort: 80, PublishedPort: 81},
				{TargetPort: 80, PublishedPort: 82, HostIp: "192.0.2.7"},
				{TargetPort: 80, PublishedPort: 83, HostIp: "192.0.2.7"},
			}}
		}})}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "-q", "--name", "web", "nginx")
		want := `Warning: be careful
Warning: node host2 does not answer for the service: device swmesh: operation not supported; ` + "`swarm doctor`" + ` there says what is in the way, or publish with mode=host
Warning: node host1 does not answer for the service: port 80/tcp is in use on this host by nginx (process 7); stop that program, or publish another port
Warning: no node has address 192.0.2.7: port 82/tcp does not answer until one does
`
		if got.Code != 0 || got.ErrOut != want {
			t.Errorf("got code %d and\n%swant\n%s", got.Code, got.ErrOut, want)
		}
	})
}
