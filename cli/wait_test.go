package cli_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// startSignals starts the runtime's goroutine for signals, which never ends. A test that runs the
// command line in a synctest bubble calls it before.
func startSignals(t *testing.T) {
	t.Helper()
	run{server: &fakeServer{}}.run(t, "node", "ls")
}

// play changes the server's tasks at moments after the service was created.
func play(steps ...step) func(*fakeServer, string) {
	return func(s *fakeServer, id string) {
		go func() {
			for _, st := range steps {
				time.Sleep(st.after)
				s.change(func() { st.edit(s) })
			}
		}()
	}
}

type step struct {
	after time.Duration
	edit  func(*fakeServer)
}

func set(tasks ...*swarmv1.TaskInfo) func(*fakeServer) {
	return func(s *fakeServer) { s.tasks = tasks }
}

func TestWait_Converges(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &fakeServer{onCreate: play(
			step{10 * time.Millisecond, set(task("t1", 1, swarmv1.TaskState_PREPARING, 0, began), task("t2", 2, swarmv1.TaskState_ASSIGNED, 0, began))},
			step{200 * time.Millisecond, set(task("t1", 1, swarmv1.TaskState_RUNNING, 0, began), task("t2", 2, swarmv1.TaskState_STARTING, 0, began))},
			step{200 * time.Millisecond, set(task("t1", 1, swarmv1.TaskState_RUNNING, 0, began), task("t2", 2, swarmv1.TaskState_RUNNING, 0, began))},
		)}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "--replicas", "2", "nginx")
		if got.code != 0 || got.out != "svc0000000000000000000001\n" {
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
		if got.errOut != want {
			t.Errorf("got\n%s\nwant\n%s", got.errOut, want)
		}
		if took := time.Since(began); took < 5400*time.Millisecond || took > 6*time.Second {
			t.Errorf("took %s, want the tasks' 0.4 s and 5 s of verifying", took)
		}
	})
}

func TestWait_CrashLoop(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		fail := func(id string, age time.Duration) *swarmv1.TaskInfo {
			f := task(id, 1, swarmv1.TaskState_FAILED, age, now)
			f.Status.Err = "task: non-zero exit (3)"
			return f
		}
		s := &fakeServer{
			logs: []*swarmv1.LogRecord{{TaskId: "t3", Stream: swarmv1.LogRecord_STDERR, Data: []byte("no such database\n")}, {TaskId: "t3", Data: []byte("bye")}},
			onCreate: play(
				step{10 * time.Millisecond, set(fail("t1", 3*time.Second), task("t2", 1, swarmv1.TaskState_READY, 2*time.Second, now))},
				step{5 * time.Second, set(fail("t1", 3*time.Second), fail("t2", 2*time.Second), task("t3", 1, swarmv1.TaskState_READY, time.Second, now))},
				step{5 * time.Second, set(fail("t1", 3*time.Second), fail("t2", 2*time.Second), fail("t3", time.Second), task("t4", 1, swarmv1.TaskState_READY, 0, now))},
			),
		}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "nginx")
		if got.code != 1 || got.out != "svc0000000000000000000001\n" {
			t.Errorf("got %+v", got)
		}
		want := `last lines of web.1 (t3):
  no such database
  bye
Error: task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3); service web stays as asked for, and its tasks are started again until they run; see ` + "`swarm service ps web`\n"
		if !strings.HasSuffix(got.errOut, want) {
			t.Errorf("got\n%s\nwant at the end\n%s", got.errOut, want)
		}
		if s.logsReq.Task != "t3" || s.logsReq.Options.Tail != 10 {
			t.Errorf("logs asked for: %v", s.logsReq)
		}
	})
}

func TestWait_Unplaced(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stuck := task("t1", 1, swarmv1.TaskState_PENDING, 0, began)
		stuck.Task.NodeId, stuck.NodeName = "", ""
		stuck.Status.Unplaced = &swarmv1.Unplaced{
			Refusals: []*swarmv1.Refusal{{Filter: "constraint", Nodes: 4, Reason: "node.labels.zone==east does not hold"}, {Filter: "down", Nodes: 1, Reason: "it is down"}},
			Nearest:  "host3 has zone west",
		}
		s := &fakeServer{onCreate: play(step{10 * time.Millisecond, set(stuck)})}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "--constraint", "node.labels.zone==east", "nginx")
		want := `no node takes a task of web:
  4 nodes: node.labels.zone==east does not hold
  1 node: it is down
  nearest: host3 has zone west
Error: 1 of 1 tasks cannot be placed: no suitable node (4 nodes: node.labels.zone==east does not hold; 1 node: it is down); nearest: host3 has zone west; service web stays as asked for, and starts its tasks as soon as nodes take them; see ` +
			"`swarm service ps web`; label a node with `swarm node update --label-add KEY=VALUE NODE`, or change the constraint\n"
		if got.code != 1 || !strings.HasSuffix(got.errOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("took %s, want 2 s", took)
		}
	})
}

func TestWait_Interrupted(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &fakeServer{onCreate: play(step{100 * time.Millisecond, func(*fakeServer) { cancel() }})}
		got := run{server: s}.runContext(ctx, t, "service", "create", "--name", "web", "nginx")
		if got.code != 0 || !strings.HasSuffix(got.errOut, "Operation continuing in background.\nUse `swarm service ps web` to check progress.\n") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestWait_RemovedMeanwhile(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{onCreate: play(step{100 * time.Millisecond, func(s *fakeServer) { s.services = nil }})}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "nginx")
		if got.code != 1 || !strings.Contains(got.errOut, "Error: service web was removed while waiting for it") {
			t.Errorf("got %+v", got)
		}
	})
}

// Once a service has settled, its user hears where it does not answer: each thing once.
func TestWait_WarnsOfNodesThatDoNotAnswer(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		elsewhere := func(port uint32) *swarmv1.PortConflict {
			return &swarmv1.PortConflict{Port: port, Protocol: "tcp", Address: "192.0.2.7", Kind: swarmv1.PortConflict_ELSEWHERE, Reason: "no such address"}
		}
		nodes := testNodes()
		nodes[0].State.Description.PortConflicts = []*swarmv1.PortConflict{
			elsewhere(82), elsewhere(83),
			{Port: 82, Protocol: "tcp", Reason: "not this one"},
			{Port: 80, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: operation not supported"},
			{Port: 81, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: operation not supported"},
		}
		nodes[1].State.Description.PortConflicts = []*swarmv1.PortConflict{
			elsewhere(82), {Port: 80, Protocol: "tcp", Reason: "port 80/tcp is in use on this host by nginx (process 7)"},
		}
		s := &fakeServer{nodes: nodes, onCreate: play(step{10 * time.Millisecond, func(s *fakeServer) {
			set(task("t1", 1, swarmv1.TaskState_RUNNING, 0, began))(s)
			s.services[0].Endpoint = &swarmv1.Endpoint{Ports: []*swarmv1.PortConfig{
				{TargetPort: 80, PublishedPort: 80},
				{TargetPort: 80, PublishedPort: 81},
				{TargetPort: 80, PublishedPort: 82, HostIp: "192.0.2.7"},
				{TargetPort: 80, PublishedPort: 83, HostIp: "192.0.2.7"},
			}}
		}})}
		got := run{server: s}.run(t, "service", "create", "-q", "--name", "web", "nginx")
		want := `Warning: be careful
Warning: node host2 does not answer for the service: device swmesh: operation not supported; ` + "`swarm doctor`" + ` there says what is in the way, or publish with mode=host
Warning: node host1 does not answer for the service: port 80/tcp is in use on this host by nginx (process 7); stop that program, or publish another port
Warning: no node has address 192.0.2.7: port 82/tcp does not answer until one does
`
		if got.code != 0 || got.errOut != want {
			t.Errorf("got code %d and\n%swant\n%s", got.code, got.errOut, want)
		}
	})
}

// A service whose name still belongs to one that is being removed is created once that is gone, and not in silence.
func TestServiceCreate_SaysThatItWaitsForTheName(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := webServer(t, time.Now())
		s.services[0].Service.PendingDelete = true
		s.beforeCreate = func() {
			time.Sleep(10 * time.Second)
			s.change(func() { s.services = nil })
		}
		got := run{server: s}.run(t, "service", "create", "-d", "--name", "web", "nginx")
		if got.code != 0 || got.errOut != "service web is still being removed: waiting until its tasks have stopped\nWarning: be careful\n" {
			t.Errorf("got %+v", got)
		}
	})
}

// What takes long because tasks stop says so.
func TestSlowRemovals(t *testing.T) {
	startSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := webServer(t, time.Now())
		s.beforeRemove = func() { time.Sleep(10 * time.Second) }
		s.networks = []*swarmv1.NetworkInfo{{Network: &swarmv1.Network{Id: "net1", Spec: &swarmv1.NetworkSpec{Name: "app"}}}}
		s.services[0].Service.PendingDelete = true
		for _, tc := range []struct{ line, out, errOut string }{
			{"leave --force", "Node left the swarm.\n", "waiting until the tasks of this node have stopped: each has its grace period\n"},
			{"network rm app", "app\n", "network app is in use by services that are being removed, web: waiting until their tasks have stopped\n"},
		} {
			if got := (run{server: s}).run(t, strings.Fields(tc.line)...); got.code != 0 || got.out != tc.out || got.errOut != tc.errOut {
				t.Errorf("%s: got %+v, want %q and %q", tc.line, got, tc.out, tc.errOut)
			}
		}
	})
}
