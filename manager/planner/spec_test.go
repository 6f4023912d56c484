package planner

import (
	swarmv1 "swarm/proto/swarm/v1"
)

func replicas(n uint64) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Replicated{Replicated: &swarmv1.ReplicatedService{Replicas: n}}}
	}
}

func global(s *swarmv1.ServiceSpec) {
	s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_Global{Global: &swarmv1.GlobalService{}}}
}

func on(networks ...string) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Networks = nil
		for _, n := range networks {
			s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, &swarmv1.NetworkAttachmentConfig{Target: n})
		}
	}
}

func image(name string) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Image = name }
}

func reserve(nanoCPUs, memory int64) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.Resources = &swarmv1.ResourceRequirements{Reservations: &swarmv1.Resources{NanoCpus: nanoCPUs, MemoryBytes: memory}}
	}
}

func constraint(list ...string) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { placementOf(s).Constraints = list }
}

func placementOf(s *swarmv1.ServiceSpec) *swarmv1.Placement {
	if s.TaskTemplate.Placement == nil {
		s.TaskTemplate.Placement = &swarmv1.Placement{}
	}
	return s.TaskTemplate.Placement
}

func hostPortOf(port uint32) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: port, PublishMode: swarmv1.PortConfig_HOST}}}
	}
}

func mounting(volumes ...string) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) {
		if s.TaskTemplate.ContainerSpec == nil {
			s.TaskTemplate.ContainerSpec = &swarmv1.ContainerSpec{}
		}
		for _, name := range volumes {
			s.TaskTemplate.ContainerSpec.Mounts = append(s.TaskTemplate.ContainerSpec.Mounts, &swarmv1.Mount{Type: swarmv1.Mount_VOLUME, Source: name, Target: "/" + name})
		}
	}
}
