package service_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// rig is the users' API with helpers for tests of ports.
type rig struct{ *controltest.Rig }

func newPortRig(t *testing.T) rig { return rig{controltest.New(t)} }

func publishing(name string, ports ...*swarmv1.PortConfig) *swarmv1.ServiceSpec {
	s := controltest.ServiceSpec(name, 1)
	s.EndpointSpec = &swarmv1.EndpointSpec{Ports: ports}
	return s
}

func portAt(ip string) *swarmv1.PortConfig {
	return &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, HostIp: ip}
}

// portClaims returns the claims of ports, with the name of the service if the owner is one.
func (r rig) portClaims() (out []string) {
	for c := range r.Store.View().Claims.Prefix("port/") {
		owner := c.GetOwner()
		if svc, ok := r.Store.View().Services.Get(owner); ok {
			owner = svc.GetName()
		}
		out = append(out, strings.TrimPrefix(c.GetKey(), "port/ingress/tcp/")+" "+owner)
	}
	return out
}

func (r rig) wantPorts(what string, want ...string) {
	r.T.Helper()
	if diff := cmp.Diff(want, r.portClaims()); diff != "" {
		r.T.Errorf("%s: claims of ports: -want +got:\n%s", what, diff)
	}
}

func (r rig) refusedPort(what string, s *swarmv1.ServiceSpec, holder string) {
	r.T.Helper()
	_, err := r.Control.CreateService(r.T.Context(), &swarmv1.CreateServiceRequest{Spec: s})
	controltest.Refused(r.T, what, err, errdefs.IsAlreadyExists, "port 8080/tcp is already published by service "+holder)
}

// One port may be published on several addresses, each by another service. Each has its own mesh
// port.
func TestControl_PortOnAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		a := r.CreateService(publishing("a", portAt("192.0.2.1")))
		r.CreateService(publishing("b", portAt("192.0.2.2"), portAt("2001:db8::1")))
		first := []string{"65534 b", "65535 b", "8080 a", "8080/192.0.2.1 a", "8080/192.0.2.2 b", "8080/2001:db8::1 b"}
		r.wantPorts("two services", first...)
		if ports := r.Service("b").GetEndpoint().GetPorts(); ports[0].GetMeshPort() != 65535 || ports[1].GetMeshPort() != 65534 {
			t.Errorf("mesh ports of b: %v", ports)
		}
		r.refusedPort("an address in use", publishing("c", portAt("::ffff:192.0.2.2")), "b")
		r.refusedPort("all addresses", publishing("c", portAt("0.0.0.0")), "a")
		r.refusedPort("the hosts' own", publishing("c", &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}), "a")

		// Ports keep their mesh ports, whatever the order of the list.
		again := publishing("b", portAt("2001:db8::1"), portAt("192.0.2.3"), portAt("192.0.2.2"))
		again.Labels = map[string]string{"turn": "2"}
		r.UpdateService(again)
		r.wantPorts("a third address", "65533 b", "65534 b", "65535 b", "8080 a", "8080/192.0.2.1 a", "8080/192.0.2.2 b", "8080/192.0.2.3 b", "8080/2001:db8::1 b")
		if ports := r.Service("b").GetEndpoint().GetPorts(); ports[0].GetMeshPort() != 65534 || ports[1].GetMeshPort() != 65533 || ports[2].GetMeshPort() != 65535 {
			t.Errorf("mesh ports of b: %v", ports)
		}
		if _, err := r.Control.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "a"}); err != nil {
			t.Fatal(err)
		}
		r.FinishRemoval(a)
		r.refusedPort("all addresses, when the first has gone", publishing("c", portAt("")), "b")
		r.UpdateService(publishing("b", portAt("")))
		r.wantPorts("all addresses, alone", "8080 b")
		r.UpdateService(controltest.ServiceSpec("b", 1))
		r.wantPorts("nothing published")
	})
}

// A port that a task publishes on its node is refused to the mesh, and the other way round.
func TestControl_PortOfAHostIsNotTheMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		host := &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}
		node := r.AddNode("h1")
		edge := r.CreateService(publishing("edge", host))
		task := r.AddTask(edge, node, 1)
		r.Commit(table.Create(&swarmv1.Claim{Key: "port/" + node + "/tcp/8080", Owner: task})) // as the planner does
		r.refusedPort("what a task has on its host", publishing("web", portAt("")), "edge")
		r.UpdateService(publishing("edge", portAt("")))
		r.refusedPort("what the mesh has", publishing("web", host), "edge")
	})
}

// Of two services that publish the same port at the same time, one succeeds.
func TestControl_ConcurrentPortsOnAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		var wg sync.WaitGroup
		for i, ip := range []string{"192.0.2.1", "", "192.0.2.2", "192.0.2.1"} {
			wg.Go(func() {
				_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: publishing(string(rune('a'+i)), portAt(ip))})
				if err != nil && !errdefs.IsAlreadyExists(err) {
					controltest.Refused(t, "a port in use", err, errdefs.IsAlreadyExists, "already published")
				}
			})
		}
		wg.Wait()
		claims := r.portClaims()
		on := func(suffix string) int {
			return len(slices.DeleteFunc(slices.Clone(claims), func(c string) bool { return !strings.Contains(c, suffix) }))
		}
		if all := on("8080 b"); all > 1 || all == 1 && len(claims) != 1 || all == 0 && (on("/192.0.2.1 ") != 1 || on("/192.0.2.2 ") != 1 || len(claims) != 4) {
			t.Errorf("claims of ports: %q", claims)
		}
	})
}

// No service may publish a port on which the nodes themselves answer. A service that has published
// such a port before may be updated.
func TestControl_PortsOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPortRig(t)
		r.AddNode("h1")
		publish := func(port uint32, proto swarmv1.PortConfig_Protocol, mode swarmv1.PortConfig_PublishMode) *swarmv1.ServiceSpec {
			s := controltest.ServiceSpec(fmt.Sprintf("s%d%s%d", port, strings.ToLower(proto.String()), mode), 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: port, Protocol: proto, PublishMode: mode}}}
			return s
		}
		for _, mode := range []swarmv1.PortConfig_PublishMode{swarmv1.PortConfig_INGRESS, swarmv1.PortConfig_HOST} {
			for _, c := range []struct {
				port  uint32
				proto swarmv1.PortConfig_Protocol
				says  string
			}{
				{2377, swarmv1.PortConfig_TCP, "port 2377/tcp is taken on every node by swarm itself, and no service could answer there: publish another port"},
				{7946, swarmv1.PortConfig_TCP, "port 7946/tcp is taken on every node by swarm's gossip"},
				{7946, swarmv1.PortConfig_UDP, "port 7946/udp is taken on every node by swarm's gossip"},
				{4789, swarmv1.PortConfig_UDP, "port 4789/udp is taken on every node by swarm's networks between nodes"},
			} {
				_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: publish(c.port, c.proto, mode)})
				controltest.Refused(t, fmt.Sprint(c.port, c.proto, mode), err, errdefs.IsInvalidArgument, c.says)
			}
		}
		r.CreateService(publish(2377, swarmv1.PortConfig_UDP, swarmv1.PortConfig_INGRESS))
		r.CreateService(publish(4789, swarmv1.PortConfig_TCP, swarmv1.PortConfig_INGRESS))
		old := publish(9000, swarmv1.PortConfig_TCP, swarmv1.PortConfig_INGRESS)
		r.CreateService(old)
		node, _ := r.Store.View().Nodes.Get(controltest.Self)
		node = node.CloneVT()
		node.Port = 9000
		r.Commit(table.Update(node))
		old.TaskTemplate.ForceUpdate++
		r.UpdateService(old)
	})
}
