//go:build linux

package fabric

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Info is what a network is on this host.
type Info struct {
	Network
	// Pin is the network's namespace: `nsenter --net=PIN ip address`.
	Pin    string
	Bridge string
	Device string
	Port   uint16
	// MTU is that of the network's interfaces as they are.
	MTU int
	// Underlay is this host's address among the peers.
	Underlay netip.Addr
	// Local lists the tasks that are attached here.
	Local []Leg
	// Peers are the hosts with tasks on the network, with the number of entries for each.
	Peers []Peer
	// Received and Sent count what came from and went to other hosts.
	Received, Sent Traffic
}

// Traffic counts frames and bytes, and what was dropped of them.
type Traffic struct{ Packets, Bytes, Dropped uint64 }

// Peer is a host that frames are sent to.
type Peer struct {
	Host      netip.Addr
	Endpoints int
}

// Networks describes the networks that this host has, ordered by id.
func (f *Fabric) Networks(ctx context.Context) ([]Info, error) {
	release, err := f.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var out []Info
	for id, n := range f.networks {
		info := Info{Network: n.Network, Pin: f.pin(id), Bridge: bridgeName, Device: vxlanName, Port: f.cfg.Port, Underlay: f.cfg.Underlay}
		for _, l := range n.legs {
			info.Local = append(info.Local, l)
		}
		slices.SortFunc(info.Local, func(a, b Leg) int { return cmp.Compare(a.TaskID, b.TaskID) })
		info.Peers = n.peers()
		link, err := n.h.LinkByName(vxlanName)
		if err != nil {
			return nil, fmt.Errorf("network %s: vxlan device: %w", id, err)
		}
		info.MTU = link.Attrs().MTU
		if s := link.Attrs().Statistics; s != nil {
			info.Received = Traffic{Packets: s.RxPackets, Bytes: s.RxBytes, Dropped: s.RxDropped}
			info.Sent = Traffic{Packets: s.TxPackets, Bytes: s.TxBytes, Dropped: s.TxDropped}
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

func (n *network) peers() []Peer {
	count := make(map[netip.Addr]int)
	if n.has != nil {
		for _, host := range n.has.Forward {
			count[host]++
		}
	}
	var out []Peer
	for host, endpoints := range count {
		out = append(out, Peer{Host: host, Endpoints: endpoints})
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Host.Compare(b.Host) })
	return out
}
