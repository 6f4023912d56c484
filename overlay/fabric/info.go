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

// Info describes a network in the kernel of this host.
type Info struct {
	Network
	// Pin is the path of the network's namespace, as in `nsenter --net=PIN ip address`. It is empty
	// if the device is in the host's namespace.
	Pin    string
	Bridge string
	Device string
	Port   uint16
	// MTU is the present MTU of the interfaces on the network. It may differ from Network.MTU.
	MTU int
	// Underlay is the address of this host to which peers send.
	Underlay netip.Addr
	// Local has the tasks that are attached on this host, sorted by id.
	Local []Attachment
	// Peers has the other hosts with tasks on the network, sorted by address.
	Peers []Peer
	// Received and Sent count the traffic with other hosts.
	Received, Sent Traffic
}

// Traffic counts frames, their bytes, and the frames that were dropped.
type Traffic struct{ Packets, Bytes, Dropped uint64 }

// Peer is a host to which frames are sent. Endpoints is the number of hardware addresses there.
type Peer struct {
	Host      netip.Addr
	Endpoints int
}

// Networks describes the networks that are in use on this host, sorted by id.
func (f *Fabric) Networks(ctx context.Context) ([]Info, error) {
	release, err := f.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	var out []Info
	for id, n := range f.networks {
		info := Info{Network: n.Network, Pin: f.pin(id), Bridge: bridgeName, Device: vxlanName, Port: f.cfg.Port, Underlay: f.cfg.Underlay}
		for _, l := range n.attachments {
			info.Local = append(info.Local, l)
		}
		slices.SortFunc(info.Local, func(a, b Attachment) int { return cmp.Compare(a.TaskID, b.TaskID) })
		info.Peers = n.peers()
		link, err := n.h.LinkByName(vxlanName)
		if err != nil {
			return nil, fmt.Errorf("network %s: find the vxlan device: %w", id, err)
		}
		info.readDevice(link)
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// HostNetwork describes a network whose VXLAN device is in the host's namespace, which this package
// does not manage: the device of the routing mesh. It returns false if there is no such device.
func (f *Fabric) HostNetwork(ctx context.Context, id, device string) (Info, bool, error) {
	release, err := f.acquire(ctx)
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
	table, err := entries.Read()
	if err := errors.Join(err, entries.Close()); err != nil {
		return Info{}, false, fmt.Errorf("network %s: read the entries of %s: %w", id, device, err)
	}
	info := Info{Network: Network{ID: id, VNI: uint32(v.VxlanId)}, Device: device, Port: uint16(v.Port), Underlay: f.cfg.Underlay, Peers: peers(table)}
	info.readDevice(link)
	return info, true, nil
}

// readDevice sets the MTU and the counters from the device.
func (i *Info) readDevice(link netlink.Link) {
	i.MTU = link.Attrs().MTU
	if s := link.Attrs().Statistics; s != nil {
		i.Received = Traffic{Packets: s.RxPackets, Bytes: s.RxBytes, Dropped: s.RxDropped}
		i.Sent = Traffic{Packets: s.TxPackets, Bytes: s.TxBytes, Dropped: s.TxDropped}
	}
}

// peers returns the hosts to which the kernel has entries.
func (n *network) peers() []Peer {
	if n.kernel == nil {
		return nil
	}
	return peers(*n.kernel)
}

func peers(t vxlan.Table) []Peer {
	count := make(map[netip.Addr]int)
	for _, host := range t.Forward {
		count[host]++
	}
	var out []Peer
	for host, endpoints := range count {
		out = append(out, Peer{Host: host, Endpoints: endpoints})
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.Host.Compare(b.Host) })
	return out
}
