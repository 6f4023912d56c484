package clitest

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
)

// TokenServer returns a server whose cluster has join tokens.
func TokenServer() *Server {
	return &Server{
		Cluster: &swarmv1.Cluster{
			Id: "c", Meta: &swarmv1.Meta{Version: 3},
			RootCa: &swarmv1.RootCA{JoinTokens: &swarmv1.JoinTokens{Worker: "SWMTKN-w", Manager: "SWMTKN-m"}},
		},
		Nodes: Nodes(),
	}
}

// CredentialServer returns a server with two client certificates, of which one created the other.
func CredentialServer() *Server {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	meta := &swarmv1.Meta{Version: 3, CreatedAt: timestamppb.New(at)}
	jane := "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
	return &Server{Credentials: []*swarmv1.Credential{
		{Id: "f00dcafe4e5f60718293a4b5c6d7e8f9", Meta: meta, Name: "ci", Until: timestamppb.New(at.Add(time.Hour)), Issuer: "user jane", IssuerId: jane},
		{Id: jane, Meta: meta, Name: "jane", Until: timestamppb.New(at.Add(90 * 24 * time.Hour)), Issuer: "local uid 0"},
	}}
}

// Task is a task of service web in a state.
func Task(id string, slot uint64, state swarmv1.TaskState, age time.Duration, now time.Time) *swarmv1.TaskInfo {
	desired := swarmv1.TaskState_RUNNING
	if state > swarmv1.TaskState_RUNNING {
		desired = swarmv1.TaskState_SHUTDOWN
	}
	return &swarmv1.TaskInfo{
		Task: &swarmv1.Task{
			Id: id, ServiceId: "svc0000000000000000000001", Slot: slot, Revision: 1, NodeId: "node2", DesiredState: desired,
			Meta: &swarmv1.Meta{CreatedAt: timestamppb.New(now.Add(-age))},
		},
		Status:      &swarmv1.TaskStatus{TaskId: id, State: state, Timestamp: timestamppb.New(now.Add(-age))},
		ServiceName: "web", NodeName: "host2", Image: "docker.io/library/redis:7@sha256:0123456789012345678901234567890123456789012345678901234567890123",
	}
}

// NewRoot returns the root of a cluster's certificates.
func NewRoot(t *testing.T) *pki.Root {
	t.Helper()
	root, err := pki.CreateRoot("cluster1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Nodes returns nodes in different roles and states.
func Nodes() []*swarmv1.NodeInfo {
	node := func(id, host string, spec *swarmv1.NodeSpec, state swarmv1.NodeState_State, m *swarmv1.ManagerStatus) *swarmv1.NodeInfo {
		return &swarmv1.NodeInfo{
			Node: &swarmv1.Node{
				Id: id, Hostname: host, Addr: "10.0.0.1", Spec: spec,
				Meta: &swarmv1.Meta{Version: 5, CreatedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))},
			},
			State: &swarmv1.NodeState{State: state, Description: &swarmv1.NodeDescription{
				Hostname: host, Engine: &swarmv1.EngineDescription{EngineVersion: "v1.2.3", Builds: []*swarmv1.RunningBuild{
					{Part: "daemon", Build: "v1.2.3-b"}, {Part: "runtime", Build: "v1.2.3-b"}, {Part: "shim", Build: "v1.2.2-a"}, {Part: "shim", Build: "v1.2.3-b"},
				}},
				Platform: &swarmv1.Platform{Architecture: "x86_64", Os: "linux"}, Resources: &swarmv1.Resources{NanoCpus: 2e9, MemoryBytes: 1 << 30},
			}},
			ManagerStatus: m,
		}
	}
	manager := &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_MANAGER}
	return []*swarmv1.NodeInfo{
		node("b2c3d4e5f6g7h8i9j0k1l2m3n", "host2", manager, swarmv1.NodeState_READY, &swarmv1.ManagerStatus{Reachability: swarmv1.ManagerStatus_REACHABLE, Addr: "10.0.0.2:2377"}),
		node("a1b2c3d4e5f6g7h8i9j0k1l2m", "host1", manager, swarmv1.NodeState_READY, &swarmv1.ManagerStatus{Leader: true, Reachability: swarmv1.ManagerStatus_REACHABLE, Addr: "10.0.0.1:2377"}),
		node("c3d4e5f6g7h8i9j0k1l2m3n4o", "host3", &swarmv1.NodeSpec{Availability: swarmv1.NodeSpec_DRAIN, Labels: map[string]string{"zone": "east"}}, swarmv1.NodeState_DOWN, nil),
	}
}

// NodeServer returns a server with Nodes.
func NodeServer() *Server {
	return &Server{Nodes: Nodes(), Info: &swarmv1.InfoResponse{NodeId: "a1b2c3d4e5f6g7h8i9j0k1l2m"}}
}

// ParseSpec reads a spec in proto's text format.
func ParseSpec(t *testing.T, text string) *swarmv1.ServiceSpec {
	t.Helper()
	s := &swarmv1.ServiceSpec{}
	if err := prototext.Unmarshal([]byte(text), s); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return s
}

// WebServer returns a server with a service named web and its tasks. now is the time of the newest.
func WebServer(t *testing.T, now time.Time) *Server {
	t.Helper()
	s := &Server{Nodes: Nodes()}
	web := ParseSpec(t, `name:"web" mode{replicated{replicas:2}} labels{key:"a" value:"b"} task_template{
		container_spec{image:"docker.io/library/redis:7@sha256:0123456789012345678901234567890123456789012345678901234567890123" env:["A=1","B=2"] hosts:["10.0.0.9 db","10.0.0.8 db"]
			capability_add:"CAP_NET_ADMIN" mounts{type:VOLUME source:"data" target:"/data"} dns_config{nameservers:"1.1.1.1"}}
		placement{constraints:["node.role==worker","node.labels.a==b"]} networks{target:"net1"} force_update:1}
		endpoint_spec{ports{target_port:80 published_port:8080} ports{target_port:53 protocol:UDP published_port:53}}`)
	s.Services = []*swarmv1.ServiceInfo{{
		Service:  &swarmv1.Service{Id: "svc0000000000000000000001", Name: "web", Revision: 1, Meta: &swarmv1.Meta{Version: 7}},
		Revision: &swarmv1.Revision{Number: 1, Template: 1, Spec: web},
		Endpoint: &swarmv1.Endpoint{Spec: web.EndpointSpec, Ports: web.EndpointSpec.Ports},
		Status:   &swarmv1.ServiceStatus{RunningTasks: 1, DesiredTasks: 2},
	}}
	failed := Task("taskaaaaaaaaaaaaaaaaaaaa1", 1, swarmv1.TaskState_FAILED, time.Minute, now)
	failed.Status.Err = "task: non-zero exit (137): it was killed by someone we do not know"
	pending := Task("taskaaaaaaaaaaaaaaaaaaaa3", 2, swarmv1.TaskState_PENDING, 90*time.Second, now)
	pending.Task.NodeId, pending.NodeName = "", ""
	pending.Status.Unplaced = &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: "memory", Nodes: 2, Reason: "not enough memory"}, {Filter: "constraint", Nodes: 1, Reason: "node.role==worker does not hold"}}}
	s.Tasks = []*swarmv1.TaskInfo{failed, Task("taskaaaaaaaaaaaaaaaaaaaa2", 1, swarmv1.TaskState_RUNNING, 5*time.Second, now), pending}
	return s
}
