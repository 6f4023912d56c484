package manager_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

func (r *rig) network(name string, edit ...func(*swarmv1.NetworkSpec)) *swarmv1.Network {
	r.t.Helper()
	s := &swarmv1.NetworkSpec{Name: name}
	for _, e := range edit {
		e(s)
	}
	info, err := r.admin.CreateNetwork(r.t.Context(), &swarmv1.CreateNetworkRequest{Spec: s})
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return info.GetNetwork()
}

func subnet(text string) func(*swarmv1.NetworkSpec) {
	return func(s *swarmv1.NetworkSpec) {
		s.Ipam = &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: text}}}
	}
}

// claims returns the claims of addresses and of other things that networks have, without cursors.
func (r *rig) claims() (out []string) {
	for c := range r.store.View().Claims.All() {
		if !strings.HasPrefix(c.GetKey(), "next/") {
			out = append(out, c.GetKey())
		}
	}
	return out
}

func attached(s *swarmv1.ServiceSpec, networks ...string) *swarmv1.ServiceSpec {
	s.TaskTemplate.Networks = nil
	for _, n := range networks {
		s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, &swarmv1.NetworkAttachmentConfig{Target: n})
	}
	return s
}

func TestControl_Networks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		w := r.join("h1")
		time.Sleep(time.Second)
		synctest.Wait()
		ingress, ok := r.store.View().NetworkByName("ingress")
		if !ok || ingress.GetIpam().GetConfigs()[0].GetSubnet() != "10.0.0.0/24" || len(ingress.GetIpam().GetConfigs()) != 2 || ingress.GetVni() != 65536 {
			t.Fatalf("network ingress: %v", ingress)
		}
		w.send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: &swarmv1.NodeDescription{Hostname: "h1", Routed: []string{"10.0.1.0/24", "10.0.2.128/30"}}}})
		synctest.Wait()
		before := r.claims()
		if info, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
			Name: "over", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.128/25"}}},
		}}); err != nil || len(info.GetWarnings()) != 1 || !strings.Contains(info.GetWarnings()[0], "subnet 10.0.1.128/25 overlaps 10.0.1.0/24, which node h1 leads to") {
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
			t.Errorf("the next free subnets are %v", c)
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
			t.Errorf("prune: %v, %v", resp, err)
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

func (r *rig) update(s *swarmv1.ServiceSpec) {
	r.t.Helper()
	if _, err := r.admin.UpdateService(r.t.Context(), &swarmv1.UpdateServiceRequest{Id: s.GetName(), Spec: s}); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func TestControl_RefusesNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		create := func(s *swarmv1.NetworkSpec) error {
			_, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: s})
			return err
		}
		ipam := func(subnet, gateway, part string) *swarmv1.NetworkSpec {
			return &swarmv1.NetworkSpec{Name: "n", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: subnet, Gateway: gateway, Range: part}}}}
		}
		for _, test := range []struct {
			spec *swarmv1.NetworkSpec
			says string
		}{
			{&swarmv1.NetworkSpec{Name: "a b"}, "not valid"},
			{&swarmv1.NetworkSpec{Name: "host"}, "built in"},
			{&swarmv1.NetworkSpec{Name: "ingress"}, "the cluster's own"},
			{&swarmv1.NetworkSpec{Name: "n", DriverConfig: &swarmv1.Driver{Name: "bridge"}}, "networks of driver bridge are built in"},
			{&swarmv1.NetworkSpec{Name: "n", DriverConfig: &swarmv1.Driver{Name: "weave"}}, "use overlay"},
			{ipam("10.1.0.1/24", "", ""), "write 10.1.0.0/24"},
			{ipam("10.1.0.0/31", "", ""), "leaves no addresses"},
			{ipam("10.1.0.0/24", "10.2.0.1", ""), "gateway"},
			{ipam("10.1.0.0/24", "", "10.2.0.0/28"), "IP range"},
			{ipam("", "10.2.0.1", ""), "--subnet"},
			{ipam("fd00::/48", "", ""), "too large"},
		} {
			refused(t, test.spec.String(), create(test.spec), errdefs.IsInvalidArgument, test.says)
		}
		r.network("small", subnet("10.9.0.0/30"))
		r.network("same", subnet("10.9.0.0/30")) // overlaps, and may
		r.create(attached(serviceSpec("one", 0), "small"))
		_, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: attached(serviceSpec("two", 0), "small")})
		refused(t, "a full subnet", err, errdefs.IsResourceExhausted, "network small: no free address in 10.9.0.0/30: 1 of 1 in use")
		_, err = r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: attached(serviceSpec("two", 0), "ingress")})
		refused(t, "network ingress", err, errdefs.IsInvalidArgument, "publish a port")
	})
}

// Many calls at the same time get different addresses and identifiers.
func TestControl_ConcurrentNetworksAndServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if _, err := r.admin.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: fmt.Sprint("n", i)}}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for i := range 50 {
			all.Go(func() {
				if _, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: attached(serviceSpec(fmt.Sprint("s", i), 1), "n1")}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		subnets, vips := map[string]bool{}, map[string]bool{}
		for n := range r.store.View().Networks.All() {
			subnets[n.GetIpam().GetConfigs()[0].GetSubnet()] = true
		}
		for e := range r.store.View().Endpoints.All() {
			vips[e.GetVirtualIps()[0].GetAddr()] = true
		}
		if len(subnets) != 21 || len(vips) != 50 {
			t.Errorf("%d subnets and %d virtual addresses, want 21 and 50", len(subnets), len(vips))
		}
	})
}

// A warning names the nodes for which the network ingress has no address when a port is published.
func TestControl_IngressIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.join("h1")
		time.Sleep(time.Second)
		v := r.store.View()
		ingress, _ := v.NetworkByName("ingress")
		var holder string
		for n := range v.Nodes.All() {
			holder = n.GetId()
		}
		for i := 2; i < 255; i++ {
			key := fmt.Sprintf("addr/%s/10.0.0.%d", ingress.GetId(), i)
			if _, taken := v.Claims.Get(key); taken {
				continue
			}
			if _, err := r.store.Commit(t.Context(), "test", raftstore.Create(&swarmv1.Claim{Key: key, Owner: "node/" + holder})); err != nil {
				t.Fatal(err)
			}
		}
		publish := func(name string, mode swarmv1.PortConfig_PublishMode) []string {
			s := serviceSpec(name, 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishMode: mode}}}
			got, err := r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			if err != nil {
				t.Fatal(err)
			}
			return got.GetWarnings()
		}
		roomy := len(publish("roomy", swarmv1.PortConfig_INGRESS))
		r.join("h2")
		time.Sleep(time.Second)
		if got := publish("full", swarmv1.PortConfig_INGRESS); len(got) != roomy+1 || !strings.Contains(strings.Join(got, ""), "network ingress is full, 253 of 253 addresses of 10.0.0.0/24 are in use; nodes without one: 1:") {
			t.Errorf("warnings: %q", got)
		}
		if got := publish("host", swarmv1.PortConfig_HOST); len(got) != roomy {
			t.Errorf("warnings for a port of the task's own host: %q", got)
		}
	})
}

// When a network is removed while a service is put on it, one of the two calls is refused.
func TestControl_NetworkRemovedWhileAServiceJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.network("other")
		for i := range 20 {
			name := fmt.Sprint("n", i)
			id := r.network(name).GetId()
			var both sync.WaitGroup
			var created, removed error
			both.Go(func() {
				_, created = r.admin.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: attached(serviceSpec("s"+name, 1), "other", name)})
			})
			both.Go(func() { _, removed = r.admin.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name}) })
			both.Wait()
			if (created == nil) == (removed == nil) {
				t.Fatalf("create: %v, remove: %v", created, removed)
			}
			if _, there := r.store.View().Networks.Get(id); there != (created == nil) {
				t.Errorf("create: %v, and the network is there: %v", created, there)
			}
		}
	})
}

// A worker is sent what its overlay has to know before the task that needs it, and then the changes
// of tasks on other nodes.
func TestDispatch_TellsTheOverlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		one, two := r.join("h1"), r.join("h2")
		r.network("web")
		r.create(attached(serviceSpec("api", 2), "web"))
		time.Sleep(time.Second)
		synctest.Wait()
		seen := map[string]bool{}
		ready := map[string]bool{}
		one.mu.Lock()
		defer one.mu.Unlock()
		for _, m := range one.messages {
			for _, c := range m.GetChanges() {
				switch o := c.GetPut().GetObject().(type) {
				case *swarmv1.Assignment_Peering:
					seen["peer "+o.Peering.GetNodeId()] = len(o.Peering.GetMeshAddresses()) == 2
				case *swarmv1.Assignment_Routing:
					seen["routing"] = len(o.Routing.GetEndpoint().GetVirtualIps()) == 1
				case *swarmv1.Assignment_Backend:
					ready[o.Backend.GetNodeId()] = o.Backend.GetReady()
					seen["backend "+o.Backend.GetTaskId()] = true
				case *swarmv1.Assignment_Network:
					seen["network "+o.Network.GetSpec().GetName()] = true
				case *swarmv1.Assignment_Task:
					for _, what := range []string{"peer " + one.id, "peer " + two.id, "routing", "backend " + o.Task.GetId(), "network web", "network ingress"} {
						if !seen[what] {
							t.Errorf("the task came before %s", what)
						}
					}
				}
			}
		}
		if !ready[one.id] || !ready[two.id] {
			t.Errorf("backends ready: %v, want one on both nodes", ready)
		}
	})
}
