package task

import (
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

// The argument of `swarm logs` is a service or a task, as in Docker.
func TestLogScope_OfAServiceOrATask(t *testing.T) {
	v := raftstoretest.View(
		&swarmv1.Service{Id: "servicew", Name: "web"}, &swarmv1.Service{Id: "serviceg", Name: "glob"}, &swarmv1.Service{Id: "servicet", Name: "t"},
		&swarmv1.Task{Id: "t1old", ServiceId: "servicew", Slot: 1, NodeId: "node1", DesiredState: swarmv1.TaskState_SHUTDOWN},
		&swarmv1.Task{Id: "t1new", ServiceId: "servicew", Slot: 1, NodeId: "node1", DesiredState: swarmv1.TaskState_RUNNING},
		&swarmv1.Task{Id: "t2run", ServiceId: "servicew", Slot: 2, NodeId: "node1", DesiredState: swarmv1.TaskState_RUNNING},
		&swarmv1.Task{Id: "tglob", ServiceId: "serviceg", NodeId: "nodeid1", DesiredState: swarmv1.TaskState_RUNNING},
		&swarmv1.Task{Id: "tgold", ServiceId: "serviceg", NodeId: "nodeid2", DesiredState: swarmv1.TaskState_SHUTDOWN},
	)
	for ref, want := range map[string]scope{
		"web.1": {task: "t1new"}, "web.2": {task: "t2run"}, "glob.nodeid1": {task: "tglob"}, "glob.nodeid2": {task: "tgold"},
		"t": {service: "servicet"},
	} {
		if got, err := logScope(v, &swarmv1.LogsRequest{Service: ref}); err != nil || got != want {
			t.Errorf("logs of %s: got %v, %v, want %v", ref, got, err, want)
		}
	}
}
