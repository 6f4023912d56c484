//go:build linux

package fabric

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"swarm/overlay/vxlan"
)

// Info is what a network is on this host.
type Info struct {
	Network
	// Pin is the network's namespace: `nsenter --net=PIN ip address`; empty: the host's.
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
		info.look(link)
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Host describes a network that the host itself is on, as the routing mesh's: its device is in the host's own namespace, and not
// this package's. False: there is none.
func (f *Fabric) Host(ctx context.Context, id, device string) (Info, bool, error) {
	release, err := f.take(ctx)
	if err != nil {
		return Info{}, false, err
	}
	defer release()
	if err := f.openHost(); err != nil {
		return Info{}, false, err
	}
	link, err := f.host.h.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return Info{}, false, nil
	}
	v, ok := link.(*netlink.Vxlan)
	if err != nil || !ok {
		return Info{}, false, err
	}
	entries, err := vxlan.Open(f.host.ns, v.Index, false)
	if err != nil {
		return Info{}, false, err
	}
	has, err := entries.Read()
	if err := errors.Join(err, entries.Close()); err != nil {
		return Info{}, false, fmt.Errorf("network %s: %w", id, err)
	}
	info := Info{Network: Network{ID: id, VNI: uint32(v.VxlanId)}, Device: device, Port: uint16(v.Port), Underlay: f.cfg.Underlay, Peers: peers(has)}
	info.look(link)
	return info, true, nil
}

// look takes what the device says.
func (i *Info) look(link netlink.Link) {
	i.MTU = link.Attrs().MTU
	if s := link.Attrs().Statistics; s != nil {
		i.Received = Traffic{Packets: s.RxPackets, Bytes: s.RxBytes, Dropped: s.RxDropped}
		i.Sent = Traffic{Packets: s.TxPackets, Bytes: s.TxBytes, Dropped: s.TxDropped}
	}
}

func (n *network) peers() []Peer {
	if n.has == nil {
		return nil
	}
	return peers(*n.has)
}

func peers(has vxlan.Table) []Peer {
	count := make(map[netip.Addr]int)
	for _, host := range has.Forward {
		count[host]++
	}
	var out []Peer
	for host, endpoints := range count {
		out = append(out, Peer{Host: host, Endpoints: endpoints})
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Host.Compare(b.Host) })
	return out
}
