package dispatch

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

func hostPort(target, published uint32) *swarmv1.PortConfig {
	return &swarmv1.PortConfig{TargetPort: target, PublishedPort: published, PublishMode: swarmv1.PortConfig_HOST}
}

// The statuses that are stored are of the worker's own tasks, with no ports or times that these
// tasks cannot have.
func TestStatuses(t *testing.T) {
	now := time.Unix(2e9, 0)
	ports := []*swarmv1.PortConfig{hostPort(80, 8080), hostPort(81, 0), {TargetPort: 82, PublishedPort: 8082}}
	view := raftstoretest.View(
		&swarmv1.Revision{ServiceId: "s", Number: 1, Spec: &swarmv1.ServiceSpec{EndpointSpec: &swarmv1.EndpointSpec{Ports: ports}}},
		&swarmv1.Task{Id: "own", ServiceId: "s", Revision: 1, NodeId: "n"}, &swarmv1.TaskStatus{TaskId: "own", State: swarmv1.TaskState_STARTING},
		&swarmv1.Task{Id: "other", ServiceId: "s", Revision: 1, NodeId: "m"},
		&swarmv1.Task{Id: "ended", ServiceId: "s", Revision: 1, NodeId: "n"}, &swarmv1.TaskStatus{TaskId: "ended", State: swarmv1.TaskState_FAILED},
	)
	running := func(id string) *swarmv1.TaskStatus {
		return &swarmv1.TaskStatus{TaskId: id, State: swarmv1.TaskState_RUNNING}
	}
	own := running("own")
	own.Timestamp, own.RunningSince = timestamppb.New(now.Add(time.Hour)), timestamppb.New(now.Add(-time.Hour))
	own.PortStatus = []*swarmv1.PortConfig{
		hostPort(80, 8080), hostPort(80, 8080), hostPort(80, 22), hostPort(81, 30123), hostPort(81, 443), hostPort(82, 8082), hostPort(83, 30124),
	}
	x := newSession(nil, &swarmv1.NodeState{NodeId: "n", SessionEpoch: 7, Addr: "n"}, nil)
	got := statuses(view, &entry{session: x, status: &swarmv1.StatusReport{
		Sequence: 3, Updates: []*swarmv1.TaskStatus{own, running("other"), running("ended"), running("nobody's")},
	}}, now)
	want := []*swarmv1.TaskStatus{{
		TaskId: "own", State: swarmv1.TaskState_RUNNING, SessionEpoch: 7, Sequence: 3,
		Timestamp: timestamppb.New(now), RunningSince: timestamppb.New(now.Add(-time.Hour)),
		PortStatus: []*swarmv1.PortConfig{hostPort(80, 8080), hostPort(81, 30123)},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSession_OneReportAtATime(t *testing.T) {
	x := newSession(nil, &swarmv1.NodeState{NodeId: "n", SessionEpoch: 1, Addr: "n"}, nil)
	for _, step := range []struct {
		what string
		err  error
		bad  bool
	}{
		{"the second before the first", x.statusReported(2), true},
		{"the first", x.statusReported(1), false},
		{"the next, not acknowledged", x.statusReported(2), true},
		{"an acknowledgement", func() error { x.ack(1); return nil }(), false},
		{"the first again", x.statusReported(1), true},
		{"the next", x.statusReported(2), false},
		{"assignments that were never sent", x.assignmentsProgrammed(1), true},
	} {
		if (step.err != nil) != step.bad {
			t.Errorf("%s: got %v, want an error: %v", step.what, step.err, step.bad)
		}
	}
}
