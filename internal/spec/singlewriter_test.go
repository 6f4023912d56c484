package spec_test

import (
	"strings"
	"testing"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestAdviseSingleWriter(t *testing.T) {
	mount := func(source string) *swarmv1.Mount { return &swarmv1.Mount{Source: source, Target: "/data"} }
	tests := []struct {
		name string
		edit func(*swarmv1.ServiceSpec)
		want bool
	}{
		{"a bind", func(*swarmv1.ServiceSpec) {}, true},
		{"single-writer", func(s *swarmv1.ServiceSpec) { s.SingleWriter = true }, false},
		{"two replicas", func(s *swarmv1.ServiceSpec) { s.Mode.GetReplicated().Replicas = 2 }, false},
		{"global", func(s *swarmv1.ServiceSpec) {
			s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
		}, false},
		{"start-first", func(s *swarmv1.ServiceSpec) {
			s.UpdateConfig = &swarmv1.UpdateConfig{Order: swarmv1.UpdateConfig_START_FIRST}
		}, false},
		{"read-only", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Mounts[0].ReadOnly = true }, false},
		{"a volume", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Mounts[0].Type = swarmv1.Mount_VOLUME
		}, false},
		{"a folder of the host", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Mounts = []*swarmv1.Mount{mount("/proc"), mount("/var/run/x"), mount("/"), mount("/srv/docker.sock")}
		}, false},
		{"such a folder and another", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Mounts = []*swarmv1.Mount{mount("/etc/x"), mount("/runner")}
		}, true},
		{"tied to a node", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname==a"}}
		}, false},
		{"kept off a node", func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.Placement = &swarmv1.Placement{Constraints: []string{"node.hostname!=a"}}
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &swarmv1.ServiceSpec{
				Name: "db", Mode: &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: 1}}},
				TaskTemplate: &swarmv1.TaskSpec{ContainerSpec: &swarmv1.ContainerSpec{Mounts: []*swarmv1.Mount{mount("/srv/data")}}},
			}
			tt.edit(s)
			if got := spec.AdviseSingleWriter(s); strings.Contains(got, "--single-writer") != tt.want {
				t.Errorf("got %q, want advice %t", got, tt.want)
			}
		})
	}
}
