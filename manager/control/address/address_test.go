package address

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

func network(prefix string, claims ...string) (*swarmv1.Network, []proto.Message) {
	n := &swarmv1.Network{
		Id: "n1", Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true},
		Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: prefix}}},
	}
	rows := []proto.Message{n}
	for _, a := range claims {
		rows = append(rows, &swarmv1.Claim{Key: ipam.Key("n1", netip.MustParseAddr(a)), Owner: "node/x" + a})
	}
	return n, rows
}

// Calls that do not see each other's claims get different addresses, until none is left.
func TestAllocator_NextFromOneView(t *testing.T) {
	n, rows := network("10.0.1.0/29", "10.0.1.3")
	v := raftstoretest.View(rows...)
	plan, err := ipam.ParseSubnets(n.GetIpam())
	if err != nil {
		t.Fatal(err)
	}
	var a Allocator
	var got []string
	for range 4 {
		addr, changes, err := a.Next(v, n, plan[0], "service/s1")
		if err != nil || len(changes) != 2 {
			t.Fatalf("got %v, %d changes", err, len(changes))
		}
		got = append(got, addr.String())
	}
	if diff := cmp.Diff([]string{"10.0.1.2", "10.0.1.4", "10.0.1.5", "10.0.1.6"}, got); diff != "" {
		t.Errorf("addresses -want +got:\n%s", diff)
	}
	n, rows = network("10.0.1.0/30", "10.0.1.2")
	if plan, err = ipam.ParseSubnets(n.GetIpam()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Next(raftstoretest.View(rows...), n, plan[0], "service/s1"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a full subnet: got %v", err)
	}
}

func TestUse_CountsClaims(t *testing.T) {
	n, rows := network("10.0.1.0/29", "10.0.1.3", "10.0.1.4", "10.0.2.9")
	v := raftstoretest.View(rows...)
	if use := Use(v, n); len(use) != 1 || use[0].GetUsed() != 2 || use[0].GetTotal() != 5 || use[0].GetSubnet() != "10.0.1.0/29" {
		t.Errorf("got %v, want 2 of 5 in 10.0.1.0/29", use)
	}
	want := map[string][]string{"x10.0.1.3": {"10.0.1.3/29"}, "x10.0.1.4": {"10.0.1.4/29"}}
	if diff := cmp.Diff(want, OfNodes(v)); diff != "" {
		t.Errorf("addresses of nodes -want +got:\n%s", diff)
	}
}
