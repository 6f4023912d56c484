//go:build linux

package vip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// leftBackends lists the backends that have left each virtual address.
type leftBackends map[netip.Addr][]netip.Addr

// add records the backends in before that are not in after.
func (d leftBackends) add(vip netip.Addr, before, after []netip.Addr) {
	for _, b := range before {
		if !slices.Contains(after, b) {
			d[vip] = append(d[vip], b)
		}
	}
}

// deleteDatagramFlows deletes the flows of protocols other than TCP to backends that have left.
// These protocols have no handshake, so such a flow would go to the old backend for as long as its
// client sends.
func (s *namespace) deleteDatagramFlows(left leftBackends) error {
	if len(left) == 0 {
		return nil
	}
	if s.mayHaveOldFlows {
		found := flowSurvey{left, make(map[netip.Addr]bool)}
		if err := deleteFlows(s.conn.Netns, found, unix.AF_INET, unix.AF_INET6); err != nil {
			return err
		}
		s.mayHaveOldFlows, s.oldDatagramVIPs = false, found.sent
		return nil
	}
	used, err := s.vipsWithDatagrams()
	if err != nil {
		return err
	}
	maps.DeleteFunc(left, func(vip netip.Addr, _ []netip.Addr) bool { return !used[vip] && !s.oldDatagramVIPs[vip] })
	if len(left) == 0 {
		return nil
	}
	return deleteFlows(s.conn.Netns, left, families(slices.Collect(maps.Keys(left)))...)
}

// vipsWithDatagrams returns the virtual addresses to which packets other than TCP were sent since
// this process wrote the table. If a virtual address is not among them, the conntrack table, which
// is slow to read, has no flows to delete for it.
func (s *namespace) vipsWithDatagrams() (map[netip.Addr]bool, error) {
	used := make(map[netip.Addr]bool)
	err := s.conn.Do(func(c *nftables.Conn) error {
		for i := range 2 {
			elements, err := c.GetSetElements(datagrams(i))
			if err != nil {
				return fmt.Errorf("read nftables set %s: %w", datagrams(i).Name, err)
			}
			for _, e := range elements {
				if vip, ok := netip.AddrFromSlice(e.Key); ok {
					used[vip] = true
				}
			}
		}
		return nil
	})
	return used, err
}

// flowSurvey deletes the flows to left backends and also collects the addresses to which packets
// other than TCP were sent.
type flowSurvey struct {
	left leftBackends
	sent map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s flowSurvey) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if to, ok := netip.AddrFromSlice(flow.Forward.DstIP); ok && flow.Forward.Protocol != unix.IPPROTO_TCP {
		s.sent[to.Unmap()] = true
	}
	return s.left.MatchConntrackFlow(flow)
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (d leftBackends) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol == unix.IPPROTO_TCP {
		return false
	}
	vip, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	backend, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return slices.Contains(d[vip.Unmap()], backend.Unmap())
}

// toBackends matches flows that were redirected from a virtual address to one of the backends.
type toBackends []netip.Addr

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (b toBackends) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	backend, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !flow.Forward.DstIP.Equal(flow.Reverse.SrcIP) && slices.Contains(b, backend.Unmap())
}

// families returns the address families of the addresses.
func families(of []netip.Addr) []netlink.InetFamily {
	var out []netlink.InetFamily
	if slices.ContainsFunc(of, netip.Addr.Is4) {
		out = append(out, unix.AF_INET)
	}
	if slices.ContainsFunc(of, netip.Addr.Is6) {
		out = append(out, unix.AF_INET6)
	}
	return out
}

// noTrackedFlows reports whether conntrack has no flow of the namespace.
func noTrackedFlows(ns *netns.Namespace) bool {
	n, err := ns.Sysctl("netfilter.nf_conntrack_count")
	return err == nil && n == "0"
}

// deleteFlows deletes the matching flows of the families. It walks the conntrack table, which all
// namespaces of the machine share. That takes some milliseconds even if the namespace has few
// flows, and much longer if others have many.
func deleteFlows(path string, which netlink.CustomConntrackFilter, families ...netlink.InetFamily) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if noTrackedFlows(ns) {
		return nil
	}
	h, err := netlink.NewHandleAt(vns.NsHandle(ns.FD()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink in namespace: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range families {
		if _, err := hostnet.Complete(func() (uint, error) { return h.ConntrackDeleteFilters(netlink.ConntrackTable, family, which) }); err != nil {
			errs = append(errs, fmt.Errorf("delete conntrack entries: %w", err))
		}
	}
	return errors.Join(errs...)
}

// hasNoFlows reports whether the namespace cannot have flows that are older than this table.
func (s *namespace) hasNoFlows() bool {
	ns, err := netns.Open(s.conn.Netns)
	if err != nil {
		return false
	}
	defer ns.Close()
	return noTrackedFlows(ns)
}
