package service_test

import (
	"testing"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// Networks are kept by id and named by name.
func TestServiceUpdate_NetworksByName(t *testing.T) {
	s := clitest.NetworkServer()
	s.Services = []*swarmv1.ServiceInfo{{
		Service: &swarmv1.Service{Id: "svc1", Name: "api", Meta: &swarmv1.Meta{Version: 3}},
		Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{Name: "api", TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: "docker.io/library/web:1"},
			Networks:      []*swarmv1.NetworkAttachmentConfig{{Target: "net0000000000000000000001"}},
		}}},
	}}
	got := clitest.Run{Server: s}.Run(t, "service", "update", "-d", "--network-rm", "web", "--network-add", "name=lan,alias=a", "api")
	if got.Code != 0 || len(s.Updates) != 1 {
		t.Fatalf("got %+v", got)
	}
	if nets := s.Updates[0].Spec.TaskTemplate.Networks; len(nets) != 1 || nets[0].Target != "lan" || nets[0].Aliases[0] != "a" {
		t.Errorf("networks: %v", nets)
	}
}
