//go:build linux

package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/forwarding"
	"swarm/overlay/hostnet"
	"swarm/overlay/nft"
)

// The priorities of our routing rules. A packet without our mark passes only two rules: the
// kernel's rule for local addresses, and prioSkip.
const (
	prioSkip  = 5357 // a packet without our mark continues at prioEnd
	prioPeers = 5358 // a mark selects the routing table of a peer, whose number is the mark
	prioEnd   = 5359 // does nothing: it is the target of prioSkip, and the host's rules follow it
)

// enabledFamilies returns the address families that the host has.
func (m *Mesh) enabledFamilies() []nft.Family {
	if forwarding.HasIPv6(m.hostNS) {
		return nft.Families()
	}
	return nft.Families()[:1]
}

// wantedRules returns the routing rules of one family for the peers.
func (m *Mesh) wantedRules(f nft.Family, peers []Node) []netlink.Rule {
	rule := func(prio int) netlink.Rule {
		r := *netlink.NewRule()
		r.Family, r.Priority = int(f.Number), prio
		return r
	}
	mask, all := uint32(markMask), ^uint32(0)
	end, skip := rule(prioEnd), rule(prioSkip)
	end.Type = actionNop
	skip.Mark, skip.Mask, skip.Invert, skip.Goto = markOurs, &mask, true, prioEnd
	out := []netlink.Rule{end, skip}
	for _, p := range peers {
		if p.address(f).IsValid() {
			r := rule(prioPeers)
			r.Mark, r.Mask, r.Table = p.mark(), &all, int(p.mark())
			out = append(out, r)
		}
	}
	return out
}

// actionNop is FR_ACT_NOP.
const actionNop = 3

func sameRule(a, b netlink.Rule) bool { return a.Priority == b.Priority && a.Mark == b.Mark }

// foundRules returns the routing rules in the kernel that have our priorities.
func (m *Mesh) foundRules(f nft.Family) ([]netlink.Rule, error) {
	all, err := hostnet.Complete(func() ([]netlink.Rule, error) { return m.h.RuleList(int(f.Number)) })
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	return slices.DeleteFunc(all, func(r netlink.Rule) bool { return r.Priority < prioSkip || r.Priority > prioEnd }), nil
}

// addRoutes creates for each peer a routing table whose default route leads through the peer, and a
// rule that selects the table by the peer's mark.
func (m *Mesh) addRoutes(link netlink.Link, peers []Node) error {
	for _, f := range m.enabledFamilies() {
		for _, p := range peers {
			via := p.address(f)
			if !via.IsValid() {
				continue
			}
			err := m.h.RouteReplace(&netlink.Route{
				LinkIndex: link.Attrs().Index, Table: int(p.mark()), Gw: via.AsSlice(), Family: int(f.Number),
				Dst: hostnet.IPNet(netip.PrefixFrom(unspecified(f), 0)),
			})
			if err != nil {
				return fmt.Errorf("route by %s: %w", via, err)
			}
		}
		found, err := m.foundRules(f)
		if err != nil {
			return err
		}
		for _, r := range m.wantedRules(f, peers) {
			if slices.ContainsFunc(found, func(o netlink.Rule) bool { return sameRule(o, r) }) {
				continue
			}
			if err := m.h.RuleAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("routing rule %d for mark %#x: %w", r.Priority, r.Mark, err)
			}
		}
	}
	return nil
}

func unspecified(f nft.Family) netip.Addr {
	if f.Number == unix.NFPROTO_IPV4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// removeStrayRules removes the routing rules and routes of all nodes that are not in peers. Without
// peers it removes all of our rules.
func (m *Mesh) removeStrayRules(peers []Node) error {
	var errs []error
	for _, f := range m.enabledFamilies() {
		found, err := m.foundRules(f)
		if err != nil {
			return err
		}
		var wanted []netlink.Rule
		if len(peers) > 0 {
			wanted = m.wantedRules(f, peers)
		}
		for _, r := range found {
			if slices.ContainsFunc(wanted, func(o netlink.Rule) bool { return sameRule(o, r) }) {
				continue
			}
			r.Family = int(f.Number)
			if err := m.h.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("routing rule %d for mark %#x: %w", r.Priority, r.Mark, err))
			}
			if r.Priority == prioPeers {
				errs = append(errs, m.removeTable(f, r.Table))
			}
		}
	}
	return errors.Join(errs...)
}

func (m *Mesh) removeTable(f nft.Family, table int) error {
	routes, err := hostnet.Complete(func() ([]netlink.Route, error) {
		return m.h.RouteListFiltered(int(f.Number), &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if err := m.h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s: %w", r, err)
		}
	}
	return nil
}
