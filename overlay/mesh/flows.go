//go:build linux

package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
)

// departures are the flows that are to be forgotten.
type departures struct {
	// left: by published UDP port, backends that receive nothing more.
	left map[uint16][]netip.AddrPort
	// kept: of these ports, only flows to these backends are right.
	kept map[uint16][]netip.AddrPort
	// fresh are published UDP ports at which nobody answered before: datagrams that came too early went to this host itself.
	fresh map[uint16]bool
	// again are published TCP ports of which the rules may have been missing: who knocked then is not to wait for his time-out.
	again map[uint16]bool
	// gone are hosts and backends of which no flow can go on.
	gone []netip.Addr
}

// note: a flow without a handshake would go to a backend that has left for as long as its client talks.
func (d *departures) note(e entry, before, after []target) {
	if e.port.Protocol != "udp" {
		return
	}
	if len(before) == 0 {
		d.fresh[e.port.Published] = true
	}
	for _, b := range before {
		if !slices.ContainsFunc(after, func(a target) bool { return a.to == b.to }) {
			d.left[e.port.Published] = append(d.left[e.port.Published], b.to)
		}
	}
}

// sweep is for the first time, when it is not known who was there before.
func (d *departures) sweep(want desired) {
	d.kept = make(map[uint16][]netip.AddrPort)
	d.again = make(map[uint16]bool)
	for e, backends := range want.entries {
		if e.port.Protocol == "tcp" {
			d.again[e.port.Published] = true
		}
		if e.port.Protocol != "udp" {
			continue
		}
		for _, b := range backends {
			d.kept[e.port.Published] = append(d.kept[e.port.Published], b.to)
		}
	}
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (d departures) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	from, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	from = from.Unmap()
	if flow.Forward.DstIP.Equal(flow.Reverse.SrcIP) {
		return flow.Forward.SrcIP.Equal(flow.Reverse.DstIP) && d.tooEarly(flow)
	}
	if slices.Contains(d.gone, from) {
		return true
	}
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	backend := netip.AddrPortFrom(from, flow.Reverse.SrcPort)
	kept, ours := d.kept[flow.Forward.DstPort]
	return slices.Contains(d.left[flow.Forward.DstPort], backend) || (ours && !slices.Contains(kept, backend))
}

// tooEarly: the flow began before there were rules for its port, and would go past them for as long as it is tried.
func (d departures) tooEarly(flow *netlink.ConntrackFlow) bool {
	port := flow.Forward.DstPort
	if flow.Forward.Protocol == unix.IPPROTO_UDP {
		_, kept := d.kept[port]
		return d.fresh[port] || kept
	}
	tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State == nl.TCP_CONNTRACK_SYN_SENT && d.again[port]
}

// forget walks the table of flows, when there is anything to find.
func (m *Mesh) forget(d departures) error {
	if len(d.left)+len(d.kept)+len(d.fresh)+len(d.again)+len(d.gone) == 0 {
		return nil
	}
	h, err := netlink.NewHandleAt(vns.NsHandle(m.here.FD()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := hostnet.Complete(func() (uint, error) { return h.ConntrackDeleteFilters(netlink.ConntrackTable, family, d) }); err != nil {
			errs = append(errs, fmt.Errorf("forget flows: %w", err))
		}
	}
	return errors.Join(errs...)
}
