package network_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/internal/ipam"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// describe makes a node report the ranges that it routes.
func describe(r *controltest.Rig, node string, routed ...string) {
	r.T.Helper()
	st, _ := r.Store.View().NodeStates.Get(node)
	st = st.CloneVT()
	st.Description = &swarmv1.NodeDescription{Routed: routed}
	r.Commit(table.Update(st))
}

// addTasks writes running tasks with addresses on a network, as the planner does. It returns the
// changes that delete them.
func addTasks(r *controltest.Rig, service, node string, n *swarmv1.Network, addresses ...string) (deletions []*swarmv1.Change) {
	r.T.Helper()
	for i, a := range addresses {
		id := r.AddTask(service, node, uint64(i+1))
		t, _ := r.Store.View().Tasks.Get(id)
		t = t.CloneVT()
		t.Networks = []*swarmv1.NetworkAttachment{{NetworkId: n.GetId(), Addresses: []string{a + "/24"}}}
		claim := &swarmv1.Claim{Key: ipam.Key(n.GetId(), netip.MustParseAddr(a)), Owner: "task/" + id}
		r.Commit(table.Update(t), table.Create(claim))
		deletions = append(deletions, table.DeleteKey(table.Task, id), table.DeleteKey(table.TaskStatus, id),
			table.DeleteKey(table.Claim, claim.GetKey()))
	}
	return deletions
}

// warnsOfOverlaps creates networks over 10.0.1.0/24, which node h1 routes elsewhere, and removes
// them.
func warnsOfOverlaps(t *testing.T, r *controltest.Rig) {
	t.Helper()
	if info, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
		Name: "over", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.128/25"}}},
	}}); err != nil || len(info.GetWarnings()) != 1 || !strings.Contains(info.GetWarnings()[0], "subnet 10.0.1.128/25 overlaps 10.0.1.0/24, which node h1 routes elsewhere") {
		t.Errorf("a subnet that a node leads to: %v, %v", info.GetWarnings(), err)
	}
	if info, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{
		Name: "twice", Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.0/24"}}},
	}}); err != nil || !slices.ContainsFunc(info.GetWarnings(), func(w string) bool {
		return strings.HasPrefix(w, "subnet 10.0.1.0/24 overlaps 10.0.1.128/25 of network over: a task that is on both networks reaches")
	}) {
		t.Errorf("a subnet that another network has: %v, %v", info.GetWarnings(), err)
	}
	for _, name := range []string{"over", "twice"} {
		if _, err := r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name}); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

func TestControl_Networks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		h1 := r.AddNode("h1")
		ingress, ok := r.Store.View().Networks.ByName("ingress")
		if !ok || ingress.GetIpam().GetConfigs()[0].GetSubnet() != "10.0.0.0/24" || len(ingress.GetIpam().GetConfigs()) != 2 || ingress.GetVni() != 65536 {
			t.Fatalf("network ingress: %v", ingress)
		}
		describe(r, h1, "10.0.1.0/24", "10.0.2.128/30")
		before := r.Claims()
		warnsOfOverlaps(t, r)
		web := r.CreateNetwork("web", func(s *swarmv1.NetworkSpec) { s.Ipv6Enabled = true })
		if c := web.GetIpam().GetConfigs(); c[0].GetSubnet() != "10.0.3.0/24" || c[0].GetGateway() != "10.0.3.1" || !strings.HasPrefix(c[1].GetSubnet(), "fd") {
			t.Errorf("the next free subnets are %v", c)
		}
		if web.GetVni() != 65539 {
			t.Errorf("vni %d, want 65539", web.GetVni())
		}
		_, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "web"}})
		controltest.Refused(t, "a name in use", err, errdefs.IsAlreadyExists, "already exists")
		api := r.CreateService(controltest.Attached(controltest.ServiceSpec("api", 2), "web"))
		tasks := addTasks(r, api, h1, web, "10.0.3.3", "10.0.3.4")
		end := r.Service("api").GetEndpoint()
		if vips := end.GetVirtualIps(); len(vips) != 2 || vips[0].GetAddr() != "10.0.3.2/24" {
			t.Fatalf("virtual addresses: %v", end.GetVirtualIps())
		}
		info, err := r.Control.GetNetwork(t.Context(), &swarmv1.GetRequest{Id: "web"})
		if err != nil || len(info.GetBackends()) != 2 || len(info.GetServices()) != 1 || len(info.GetPeers()) != 1 || info.GetUse()[0].GetUsed() != 3 || info.GetUse()[0].GetTotal() != 253 {
			t.Errorf("network inspect: %v, %v", info, err)
		}
		_, err = r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "web"})
		controltest.Refused(t, "a network in use", err, errdefs.IsFailedPrecondition, "in use by service api")
		for _, name := range []string{"bridge", "ingress"} {
			_, err = r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name})
			controltest.Refused(t, "network "+name, err, errdefs.IsPermissionDenied, "cannot be removed")
		}
		r.UpdateService(controltest.ServiceSpec("api", 2))
		_, err = r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: "web"})
		controltest.Refused(t, "a network with tasks", err, errdefs.IsFailedPrecondition, "in use by service api")
		r.Commit(tasks...) // the planner replaces them
		if vips := r.Service("api").GetEndpoint().GetVirtualIps(); len(vips) != 0 {
			t.Errorf("virtual addresses after the network was taken off: %v", vips)
		}
		resp, err := r.Control.PruneNetworks(t.Context(), &swarmv1.PruneNetworksRequest{})
		if err != nil || !slices.Equal(resp.GetRemoved(), []string{"web"}) {
			t.Errorf("prune: %v, %v", resp, err)
		}
		synctest.Wait()
		if diff := cmp.Diff(before, r.Claims()); diff != "" {
			t.Errorf("claims are left:\n%s", diff)
		}
		list, err := r.Control.ListNetworks(t.Context(), &swarmv1.ListRequest{})
		var names []string
		for _, n := range list.GetNetworks() {
			names = append(names, n.GetNetwork().GetSpec().GetName()+"/"+n.GetNetwork().GetSpec().GetDriverConfig().GetName())
		}
		if diff := cmp.Diff([]string{"bridge/bridge", "host/host", "ingress/overlay", "none/null"}, names); err != nil || diff != "" {
			t.Errorf("networks: %v\n%s", err, diff)
		}
	})
}

func TestControl_RefusesNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		create := func(s *swarmv1.NetworkSpec) error {
			_, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: s})
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
			controltest.Refused(t, test.spec.String(), create(test.spec), errdefs.IsInvalidArgument, test.says)
		}
		r.CreateNetwork("small", controltest.Subnet("10.9.0.0/30"))
		r.CreateNetwork("same", controltest.Subnet("10.9.0.0/30")) // overlaps, and may
		r.CreateService(controltest.Attached(controltest.ServiceSpec("one", 0), "small"))
		_, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.Attached(controltest.ServiceSpec("two", 0), "small")})
		controltest.Refused(t, "a full subnet", err, errdefs.IsResourceExhausted, "network small: no free address in 10.9.0.0/30: 1 of 1 in use")
		_, err = r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.Attached(controltest.ServiceSpec("two", 0), "ingress")})
		controltest.Refused(t, "network ingress", err, errdefs.IsInvalidArgument, "publish a port")
	})
}

// Concurrent calls get different addresses and identifiers.
func TestControl_ConcurrentNetworksAndServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if _, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: fmt.Sprint("n", i)}}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for i := range 50 {
			all.Go(func() {
				if _, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.Attached(controltest.ServiceSpec(fmt.Sprint("s", i), 1), "n1")}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		subnets, vips := map[string]bool{}, map[string]bool{}
		for n := range r.Store.View().Networks.All() {
			subnets[n.GetIpam().GetConfigs()[0].GetSubnet()] = true
		}
		for e := range r.Store.View().Endpoints.All() {
			vips[e.GetVirtualIps()[0].GetAddr()] = true
		}
		if len(subnets) != 21 || len(vips) != 50 {
			t.Errorf("%d subnets and %d virtual addresses, want 21 and 50", len(subnets), len(vips))
		}
	})
}

// A service that publishes a port gets a warning if network ingress has no address for some nodes.
func TestControl_IngressIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		h1 := r.AddNode("h1")
		v := r.Store.View()
		ingress, _ := v.Networks.ByName("ingress")
		for i := 2; i < 255; i++ {
			holder := h1
			if i == 2 {
				holder = controltest.Self
			}
			r.Commit(table.Create(&swarmv1.Claim{Key: fmt.Sprintf("addr/%s/10.0.0.%d", ingress.GetId(), i), Owner: "node/" + holder}))
		}
		publish := func(name string, mode swarmv1.PortConfig_PublishMode) []string {
			s := controltest.ServiceSpec(name, 1)
			s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishMode: mode}}}
			got, err := r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: s})
			if err != nil {
				t.Fatal(err)
			}
			return got.GetWarnings()
		}
		roomy := len(publish("roomy", swarmv1.PortConfig_INGRESS))
		r.AddNode("h2")
		if got := publish("full", swarmv1.PortConfig_INGRESS); len(got) != roomy+1 || !strings.Contains(strings.Join(got, ""), "network ingress is full (253 of 253 addresses of 10.0.0.0/24 are in use): 1 nodes have no address there") {
			t.Errorf("warnings: %q", got)
		}
		if got := publish("host", swarmv1.PortConfig_HOST); len(got) != roomy {
			t.Errorf("warnings for a port of the task's own host: %q", got)
		}
	})
}

// If a network is removed while a service joins it, one of the two calls is refused.
func TestControl_NetworkRemovedWhileAServiceJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.CreateNetwork("other")
		for i := range 20 {
			name := fmt.Sprint("n", i)
			id := r.CreateNetwork(name).GetId()
			var both sync.WaitGroup
			var created, removed error
			both.Go(func() {
				_, created = r.Control.CreateService(t.Context(), &swarmv1.CreateServiceRequest{Spec: controltest.Attached(controltest.ServiceSpec("s"+name, 1), "other", name)})
			})
			both.Go(func() { _, removed = r.Control.RemoveNetwork(t.Context(), &swarmv1.GetRequest{Id: name}) })
			both.Wait()
			if (created == nil) == (removed == nil) {
				t.Fatalf("create: %v, remove: %v", created, removed)
			}
			if _, there := r.Store.View().Networks.Get(id); there != (created == nil) {
				t.Errorf("create: %v, and the network is there: %v", created, there)
			}
		}
	})
}

// An attachable network keeps the setting, and its creator learns that the setting changes nothing.
func TestControl_WarnsOfAttachableNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		r.Lead()
		for _, attachable := range []bool{false, true} {
			name := fmt.Sprint("app-", attachable)
			info, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: name, Attachable: attachable}})
			if err != nil || info.GetNetwork().GetSpec().GetAttachable() != attachable {
				t.Fatalf("attachable %v: got %v, %v", attachable, info, err)
			}
			warned := slices.ContainsFunc(info.GetWarnings(), func(w string) bool {
				return strings.Contains(w, "--attachable changes nothing on network "+name)
			})
			if warned != attachable {
				t.Errorf("attachable %v: got warnings %q", attachable, info.GetWarnings())
			}
		}
	})
}

// The routes of workers do not prevent the creation of networks, but cause a warning. The routes of
// managers do.
func TestControl_RoutesOfWorkersDoNotBlockNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t)
		a := r.AddNode("host-a")
		routes := []string{"0.0.0.0/0", "10.0.0.0/8"}
		for i := range 200 {
			routes = append(routes, fmt.Sprintf("10.%d.0.0/16", i))
		}
		describe(r, a, routes...)
		info, err := r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "app"}})
		if err != nil || len(info.GetWarnings()) == 0 || !strings.Contains(info.GetWarnings()[0], "host-a") {
			t.Errorf("got %v, %v, want a network, and a warning that names host-a", info, err)
		}
		describe(r, controltest.Self, "10.0.0.0/8")
		_, err = r.Control.CreateNetwork(t.Context(), &swarmv1.CreateNetworkRequest{Spec: &swarmv1.NetworkSpec{Name: "other"}})
		controltest.Refused(t, "a pool that a manager routes elsewhere", err, errdefs.IsResourceExhausted, "--subnet")
	})
}
