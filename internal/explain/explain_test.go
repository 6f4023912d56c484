package explain

import (
	"slices"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func unplaced(filter string) *swarmv1.Unplaced {
	return &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: filter, Nodes: 3, Reason: "it does not fit"}}, Nearest: "host2 lacks 1 GiB"}
}

func TestPlacementHint(t *testing.T) {
	for filter, want := range map[string]string{
		"constraint": "--label-add", "memory": "--reserve-", "image": "docker save app:1 | swarm image load", "down": "swarm node ls", "availability": "--availability active",
		"port": "another port", "max-replicas": "--replicas-max-per-node", "platform": "platform", "new-filter": "", "address": "--network-rm",
	} {
		if got := PlacementHint(unplaced(filter), "app:1"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q in it", filter, got, want)
		}
	}
	if got := PlacementHint(nil, "app:1"); got != "" {
		t.Errorf("no refusals: got %q", got)
	}
}

func TestUnplaced(t *testing.T) {
	u := unplaced("memory")
	u.Refusals = append(u.Refusals, &swarmv1.Refusal{Filter: "down", Nodes: 1}, &swarmv1.Refusal{Filter: "image", Reason: "no such image"})
	if got, want := Unplaced(u), "no suitable node (3 nodes: it does not fit; 1 node: down; no such image); nearest: host2 lacks 1 GiB"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := Unplaced(nil), "no suitable node"; got != want {
		t.Errorf("no refusals: got %q, want %q", got, want)
	}
}

func TestFailure(t *testing.T) {
	for _, c := range []struct {
		status *swarmv1.TaskStatus
		want   string
	}{
		{&swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, Err: "task: non-zero exit (3):\n failed precondition"}, "task: non-zero exit (3)"},
		{&swarmv1.TaskStatus{State: swarmv1.TaskState_COMPLETE}, "exit code 0"},
		{&swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, ContainerStatus: &swarmv1.ContainerStatus{ExitCode: 7}}, "exit code 7"},
		{&swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, ContainerStatus: &swarmv1.ContainerStatus{ExitCode: 137, OomKilled: true}}, "it ran out of memory"},
		{&swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, ContainerStatus: &swarmv1.ContainerStatus{ExitCodeUnknown: true}}, "it ended, with an exit code that nobody knows"},
	} {
		if got := Failure(c.status); got != c.want {
			t.Errorf("%v: got %q, want %q", c.status, got, c.want)
		}
	}
}

func TestImageHint(t *testing.T) {
	for err, want := range map[string]string{
		"no such image: app:1":                              "docker save app:1",
		"pull app:1: connection refused":                    "docker save app:1",
		"no node gave it: load it with `swarm image load`":  "",
		"start container: exec /bin/nothing: no such file":  "",
		"Cannot fetch app:1 from registry.example: timeout": "docker save app:1",
	} {
		if got := ImageHint(err, "app:1"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q in it", err, got, want)
		}
	}
}

func TestPortWarnings(t *testing.T) {
	node := func(name string, state swarmv1.NodeState_State, conflicts ...*swarmv1.PortConflict) *swarmv1.NodeInfo {
		return &swarmv1.NodeInfo{
			Node:  &swarmv1.Node{Id: name, Hostname: name},
			State: &swarmv1.NodeState{State: state, Description: &swarmv1.NodeDescription{PortConflicts: conflicts}},
		}
	}
	const ready = swarmv1.NodeState_READY
	taken := &swarmv1.PortConflict{Port: 80, Protocol: "tcp", Reason: "nginx listens at port 80"}
	web := []*swarmv1.PortConfig{{PublishedPort: 80, TargetPort: 80}, {PublishedPort: 81, PublishMode: swarmv1.PortConfig_HOST}}
	elsewhere := &swarmv1.PortConflict{Port: 80, Protocol: "tcp", Address: "10.0.0.9", Kind: swarmv1.PortConflict_ELSEWHERE}
	unable := &swarmv1.PortConflict{Port: 80, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "no table"}
	for _, c := range []struct {
		name  string
		ports []*swarmv1.PortConfig
		nodes []*swarmv1.NodeInfo
		want  []string
	}{
		{"no conflict", web, []*swarmv1.NodeInfo{node("a", ready)}, nil},
		{"another program", web, []*swarmv1.NodeInfo{node("a", ready, taken), node("b", ready)}, []string{
			"node a does not answer for the service: nginx listens at port 80; stop that program, or publish another port",
		}},
		{"a node that is down", web, []*swarmv1.NodeInfo{node("a", swarmv1.NodeState_DOWN, taken)}, nil},
		{"unable", web, []*swarmv1.NodeInfo{node("a", ready, unable)}, []string{
			"node a does not answer for the service: no table; `swarm doctor` there says what is in the way, or publish with mode=host",
		}},
		{"an address of no node", []*swarmv1.PortConfig{{PublishedPort: 80, HostIp: "10.0.0.9"}}, []*swarmv1.NodeInfo{node("a", ready, elsewhere)}, []string{
			"no node has address 10.0.0.9: port 80/tcp does not answer until one does",
		}},
		{"an address of another node", []*swarmv1.PortConfig{{PublishedPort: 80, HostIp: "10.0.0.9"}}, []*swarmv1.NodeInfo{node("a", ready, elsewhere), node("b", ready)}, nil},
	} {
		if got := PortWarnings(c.ports, c.nodes); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
