package manager_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// The removal of a network with tasks leaves no claim, neither of the API nor of the planner.
func TestManager_NetworkLeavesNoClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := r.join("h1")
		time.Sleep(time.Second)
		synctest.Wait()
		ingress, ok := r.store.View().Networks.ByName("ingress")
		if !ok || ingress.GetIpam().GetConfigs()[0].GetSubnet() != "10.0.0.0/24" || len(ingress.GetIpam().GetConfigs()) != 2 || ingress.GetVni() != 65536 {
			t.Fatalf("network ingress: %v", ingress)
		}
		w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: &swarmv1.NodeDescription{Hostname: "h1", Routed: []string{"10.0.1.0/24", "10.0.2.128/30"}}}})
		synctest.Wait()
		before := r.claims()
		if info, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
			Name: "over", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.128/25"}}},
		}}); err != nil || len(info.GetWarnings()) != 1 || !strings.Contains(info.GetWarnings()[0], "subnet 10.0.1.128/25 overlaps 10.0.1.0/24, which node h1 routes elsewhere") {
			t.Errorf("a subnet that a node leads to: %v, %v", info.GetWarnings(), err)
		}
		if info, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
			Name: "twice", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.0/24"}}},
		}}); err != nil || !slices.ContainsFunc(info.GetWarnings(), func(w string) bool {
			return strings.HasPrefix(w, "subnet 10.0.1.0/24 overlaps 10.0.1.128/25 of network over: a task that is on both networks reaches")
		}) {
			t.Errorf("a subnet that another network has: %v, %v", info.GetWarnings(), err)
		}
		for _, name := range []string{"over", "twice"} {
			if _, err := r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		web := r.network("web", func(s *swarmv1.NetworkSpec) { s.Ipv6Enabled = true })
		if c := web.GetIpam().GetConfigs(); c[0].GetSubnet() != "10.0.3.0/24" || c[0].GetGateway() != "10.0.3.1" || !strings.HasPrefix(c[1].GetSubnet(), "fd") {
			t.Errorf("next free subnets: got %v, want 10.0.3.0/24 and one of fd00::/8", c)
		}
		if web.GetVni() != 65539 {
			t.Errorf("vni %d, want 65539", web.GetVni())
		}
		_, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "web"}})
		refused(t, "a name in use", err, errdefs.IsAlreadyExists, "already exists")
		r.create(attached(serviceSpec("api", 2), "web"))
		end := r.service("api").GetEndpoint()
		if vips := end.GetVirtualIps(); len(vips) != 2 || vips[0].GetAddr() != "10.0.3.2/24" {
			t.Fatalf("virtual addresses: %v", end.GetVirtualIps())
		}
		info, err := r.admin.GetNetwork(t.Context(), &swarmv1.GetRequest{Id: "web"})
		if err != nil || len(info.GetBackends()) != 2 || len(info.GetServices()) != 1 || len(info.GetPeers()) != 1 || info.GetUse()[0].GetUsed() != 3 || info.GetUse()[0].GetTotal() != 253 {
			t.Errorf("network inspect: %v, %v", info, err)
		}
		_, err = r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "web"})
		refused(t, "a network in use", err, errdefs.IsFailedPrecondition, "in use by service api")
		for _, name := range []string{"bridge", "ingress"} {
			_, err = r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name})
			refused(t, "network "+name, err, errdefs.IsPermissionDenied, "cannot be removed")
		}
		r.update(serviceSpec("api", 2))
		time.Sleep(time.Minute)
		synctest.Wait()
		if vips := r.service("api").GetEndpoint().GetVirtualIps(); len(vips) != 0 {
			t.Errorf("virtual addresses after the network was taken off: %v", vips)
		}
		resp, err := r.admin.PruneNetworks(t.Context(), &swarmv1.PruneNetworksRequest{})
		if err != nil || !slices.Equal(resp.GetRemoved(), []string{"web"}) {
			t.Errorf("prune: got %v, %v, want web removed", resp, err)
		}
		synctest.Wait()
		if diff := cmp.Diff(before, r.claims()); diff != "" {
			t.Errorf("claims are left:\n%s", diff)
		}
		list, err := r.admin.ListNetworks(t.Context(), &swarmv1.ListRequest{})
		var names []string
		for _, n := range list.GetNetworks() {
			names = append(names, n.GetNetwork().GetSpec().GetName()+"/"+n.GetNetwork().GetSpec().GetDriverConfig().GetName())
		}
		if diff := cmp.Diff([]string{"bridge/bridge", "host/host", "ingress/overlay", "none/null"}, names); err != nil || diff != "" {
			t.Errorf("networks: %v\n%s", err, diff)
		}
	})
}

// A call that needs a name, port or subnet of a removed service waits until the service's tasks
// have stopped.
func TestManager_TakesOverFromARemovedService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.join("host-a")
		synctest.Wait()
		web := attached(serviceSpec("web", 2), r.network("front").GetSpec().GetName())
		web.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
		old := r.create(web)
		remove := func() {
			t.Helper()
			a.delay()
			if _, err := r.admin.RemoveService(t.Context(), &swarmv1.GetRequest{Id: "web"}); err != nil {
				t.Fatal(err)
			}
		}
		takes := func(what string, f func() error) {
			t.Helper()
			began := time.Now()
			time.AfterFunc(2*time.Second, a.speak)
			if err := f(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
				t.Errorf("%s took %v, want as long as the tasks", what, took)
			}
		}

		remove()
		takes("a service of the same name, port and network", func() error {
			got, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: web})
			if err == nil && got.GetId() == old {
				t.Error("the new service has the id of the removed one")
			}
			return err
		})
		synctest.Wait()

		remove()
		takes("another service at the same port", func() error {
			s := serviceSpec("api", 0)
			s.EndpointSpec = web.GetEndpointSpec()
			_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			return err
		})
		synctest.Wait()

		web.EndpointSpec = nil
		r.create(web)
		remove()
		takes("the removal of its network", func() error {
			_, err := r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "front"})
			return err
		})
	})
}

// A port that a task publishes on its node cannot be published on the mesh, and the other way
// round.
func TestManager_PortOfAHostIsNotTheMesh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.join("h1")
		synctest.Wait()
		host := &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: swarmv1.PortConfig_HOST}
		publishing := func(name string, p *swarmv1.PortConfig) *swarmv1.ServiceSpec {
			s := serviceSpec(name, 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{p}}
			return s
		}
		refusedPort := func(what string, s *swarmv1.ServiceSpec) {
			t.Helper()
			_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			refused(t, what, err, errdefs.IsAlreadyExists, "port 8080/tcp is already published by service edge")
		}
		mesh := &swarmv1.PortConfig{TargetPort: 80, PublishedPort: 8080}
		r.create(publishing("edge", host))
		time.Sleep(time.Second)
		synctest.Wait()
		refusedPort("what a task has on its host", publishing("web", mesh))
		r.update(publishing("edge", mesh))
		refusedPort("what the mesh has", publishing("web", host))
	})
}
