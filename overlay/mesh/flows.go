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

// staleFlows selects the conntrack entries to delete. Its ports are published ports, and mesh ports
// for the flows that peers forward to this host.
type staleFlows struct {
	// leftBackends are the backends that have left, by UDP port.
	leftBackends map[uint16][]netip.AddrPort
	// validBackends are all backends, by UDP port. Flows to other backends are stale. It is nil if
	// the former backends are known, because leftBackends is then complete.
	validBackends map[uint16][]netip.AddrPort
	// newUDPPorts are the UDP ports that had no backend until now. The flows of packets that came
	// before go to this host itself.
	newUDPPorts map[uint16]bool
	// retryTCPPorts are the TCP ports whose rules may have been missing. If the entry of an
	// unanswered SYN is deleted, the client's next SYN reaches a backend.
	retryTCPPorts map[uint16]bool
	// goneAddresses are the addresses of hosts and backends that no longer exist.
	goneAddresses []netip.Addr
}

// addLeft adds the UDP flows of an entry to the backends that have left. UDP has no handshake, so
// such a flow would go to the old backend until its client stops sending.
func (d *staleFlows) addLeft(e entry, before, after []target) {
	if e.port.Protocol != "udp" {
		return
	}
	if len(before) == 0 {
		d.newUDPPorts[e.port.Published] = true
	}
	for _, b := range before {
		if !slices.ContainsFunc(after, func(a target) bool { return a.to == b.to }) {
			d.leftBackends[e.port.Published] = append(d.leftBackends[e.port.Published], b.to)
		}
	}
}

// addUnknown selects all flows that do not match the desired content. It is for a sync that does
// not know the former backends, such as the first sync of a process.
func (d *staleFlows) addUnknown(want content) {
	d.validBackends = make(map[uint16][]netip.AddrPort)
	d.retryTCPPorts = make(map[uint16]bool)
	for e, backends := range want.entries {
		if e.port.Protocol == "tcp" {
			d.retryTCPPorts[e.port.Published] = true
		}
		if e.port.Protocol != "udp" {
			continue
		}
		for _, b := range backends {
			d.validBackends[e.port.Published] = append(d.validBackends[e.port.Published], b.to)
		}
	}
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter. It reports whether a flow is stale.
// If a flow is redirected, its answers come from another address than the one to which the client
// sends.
func (d staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	redirected := !flow.Forward.DstIP.Equal(flow.Reverse.SrcIP)
	masqueraded := !flow.Forward.SrcIP.Equal(flow.Reverse.DstIP)
	if !redirected {
		return !masqueraded && d.beforeRules(flow)
	}
	answering, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	answering = answering.Unmap()
	if slices.Contains(d.goneAddresses, answering) {
		return true
	}
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	port, backend := flow.Forward.DstPort, netip.AddrPortFrom(answering, flow.Reverse.SrcPort)
	valid, known := d.validBackends[port]
	return slices.Contains(d.leftBackends[port], backend) || (known && !slices.Contains(valid, backend))
}

// beforeRules reports whether a flow that was not redirected began before its port had rules. The
// kernel would never redirect it.
func (d staleFlows) beforeRules(flow *netlink.ConntrackFlow) bool {
	port := flow.Forward.DstPort
	if flow.Forward.Protocol == unix.IPPROTO_UDP {
		_, known := d.validBackends[port]
		return d.newUDPPorts[port] || known
	}
	tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State == nl.TCP_CONNTRACK_SYN_SENT && d.retryTCPPorts[port]
}

// deleteFlows deletes the stale flows. It walks the conntrack table only if d selects any flow.
func (m *Mesh) deleteFlows(d staleFlows) error {
	if len(d.leftBackends)+len(d.validBackends)+len(d.newUDPPorts)+len(d.retryTCPPorts)+len(d.goneAddresses) == 0 {
		return nil
	}
	h, err := netlink.NewHandleAt(vns.NsHandle(m.hostNS.FD()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := hostnet.Complete(func() (uint, error) { return h.ConntrackDeleteFilters(netlink.ConntrackTable, family, d) }); err != nil {
			errs = append(errs, fmt.Errorf("delete conntrack entries: %w", err))
		}
	}
	return errors.Join(errs...)
}
