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

// departures tells which backends have left each virtual address.
type departures map[netip.Addr][]netip.Addr

func (d departures) note(vip netip.Addr, before, after []netip.Addr) {
	for _, b := range before {
		if !slices.Contains(after, b) {
			d[vip] = append(d[vip], b)
		}
	}
}

// forgetDatagrams drops flows without a handshake to backends that have left: one would go there for as long as its client talks.
func (s *space) forgetDatagrams(left departures) error {
	if len(left) == 0 {
		return nil
	}
	if !s.inherited {
		used, err := s.sentDatagrams()
		if err != nil {
			return err
		}
		for vip := range left {
			if !used[vip] {
				delete(left, vip)
			}
		}
	}
	if len(left) == 0 {
		return nil
	}
	return forget(s.conn.Netns, left, slices.Collect(maps.Keys(left)))
}

// sentDatagrams lists the virtual addresses that anything but TCP was sent to, so that walking the table of flows is rare.
func (s *space) sentDatagrams() (map[netip.Addr]bool, error) {
	used := make(map[netip.Addr]bool)
	err := s.conn.Do(func(c *nftables.Conn) error {
		for i := range 2 {
			elements, err := c.GetSetElements(datagrams(i))
			if err != nil {
				return fmt.Errorf("read who was sent datagrams: %w", err)
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

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (d departures) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol == unix.IPPROTO_TCP {
		return false
	}
	vip, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	backend, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return slices.Contains(d[vip.Unmap()], backend.Unmap())
}

// toBackends matches flows that a virtual address led to one of them.
type toBackends []netip.Addr

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (b toBackends) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	backend, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !flow.Forward.DstIP.Equal(flow.Reverse.SrcIP) && slices.Contains(b, backend.Unmap())
}

// forget walks the table of flows, which all namespaces of the machine share: some milliseconds even when few are ours, and
// much more when others have many. Only the families of some addresses are looked at.
func forget(path string, which netlink.CustomConntrackFilter, of []netip.Addr) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if n, err := ns.Sysctl("netfilter.nf_conntrack_count"); err == nil && n == "0" {
		return nil
	}
	h, err := netlink.NewHandleAt(vns.NsHandle(ns.FD()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("netlink in namespace: %w", err)
	}
	defer h.Close()
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if !slices.ContainsFunc(of, func(a netip.Addr) bool { return a.Is4() == (family == unix.AF_INET) }) {
			continue
		}
		if _, err := hostnet.Complete(func() (uint, error) { return h.ConntrackDeleteFilters(netlink.ConntrackTable, family, which) }); err != nil {
			errs = append(errs, fmt.Errorf("forget flows: %w", err))
		}
	}
	return errors.Join(errs...)
}
