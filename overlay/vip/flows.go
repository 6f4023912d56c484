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
	if s.inherited {
		found := survey{left, make(map[netip.Addr]bool)}
		if err := forget(s.conn.Netns, found, unix.AF_INET, unix.AF_INET6); err != nil {
			return err
		}
		s.inherited, s.sent = false, found.sent
		return nil
	}
	used, err := s.sentDatagrams()
	if err != nil {
		return err
	}
	maps.DeleteFunc(left, func(vip netip.Addr, _ []netip.Addr) bool { return !used[vip] && !s.sent[vip] })
	if len(left) == 0 {
		return nil
	}
	return forget(s.conn.Netns, left, families(slices.Collect(maps.Keys(left)))...)
}

// sentDatagrams lists the virtual addresses that anything but TCP was sent to under this table, so that walking the table of
// flows is rare.
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

// survey finds out on the way where anything but TCP was sent to.
type survey struct {
	left departures
	sent map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s survey) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if to, ok := netip.AddrFromSlice(flow.Forward.DstIP); ok && flow.Forward.Protocol != unix.IPPROTO_TCP {
		s.sent[to.Unmap()] = true
	}
	return s.left.MatchConntrackFlow(flow)
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

// families of addresses.
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

// tracksNone: nothing has been sent in the namespace, or nothing is remembered of it.
func tracksNone(ns *netns.Namespace) bool {
	n, err := ns.Sysctl("netfilter.nf_conntrack_count")
	return err == nil && n == "0"
}

// forget walks the table of flows, which all namespaces of the machine share: some milliseconds even when few are ours, and
// much more when others have many. Only some families are looked at.
func forget(path string, which netlink.CustomConntrackFilter, families ...netlink.InetFamily) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if tracksNone(ns) {
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
			errs = append(errs, fmt.Errorf("forget flows: %w", err))
		}
	}
	return errors.Join(errs...)
}

// fresh reports whether no flow of before this table can be left in the namespace.
func (s *space) fresh() bool {
	ns, err := netns.Open(s.conn.Netns)
	if err != nil {
		return false
	}
	defer ns.Close()
	return tracksNone(ns)
}
