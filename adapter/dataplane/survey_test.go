//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	swarmv1 "swarm/proto/swarm/v1"
)

// The kind of a conflict tells the doctor what to advise: another program has the port, the kernel
// lacks something, or the port belongs to an address of another host.
func TestPortConflicts_Kinds(t *testing.T) {
	port := func(n uint16) mesh.Port { return mesh.Port{Published: n, Protocol: "tcp"} }
	elsewhere := port(82)
	elsewhere.IP = netip.MustParseAddr("192.0.2.7")
	got := portConflicts([]mesh.Conflict{
		{Port: port(80), Err: fmt.Errorf("nginx has port 80: %w", errdefs.ErrAlreadyExists)},
		{Port: port(81), Err: errors.New("no module")},
		{Port: elsewhere, Err: errors.New("not here"), AddressMissing: true},
	})
	want := []*swarmv1.PortConflict{
		{Port: 80, Protocol: "tcp", Kind: swarmv1.PortConflict_PROGRAM, Reason: "nginx has port 80"},
		{Port: 81, Protocol: "tcp", Kind: swarmv1.PortConflict_UNABLE, Reason: "no module"},
		{Port: 82, Protocol: "tcp", Address: "192.0.2.7", Kind: swarmv1.PortConflict_ELSEWHERE, Reason: "not here"},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestNodeNetwork(t *testing.T) {
	got := nodeNetwork(fabric.Info{
		Network: fabric.Network{ID: "n", VNI: 70000}, MTU: 1450, Underlay: netip.MustParseAddr("192.0.2.1"), Port: 4789, Pin: "/run/n",
		Received: fabric.Traffic{Packets: 1, Bytes: 2, Dropped: 3}, Sent: fabric.Traffic{Packets: 4, Bytes: 5, Dropped: 6},
	})
	want := &swarmv1.NodeNetwork{
		Vni: 70000, Mtu: 1450, Underlay: "192.0.2.1", Port: 4789, Netns: "/run/n",
		Received: &swarmv1.NetworkTraffic{Packets: 1, Bytes: 2, Dropped: 3}, Sent: &swarmv1.NetworkTraffic{Packets: 4, Bytes: 5, Dropped: 6},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}
