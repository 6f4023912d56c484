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

// Routing rules. Packets that are not ours pass two of them: the kernel's own for local addresses, and the first of these.
const (
	prioSkip  = 5357 // not marked by us: go to prioEnd
	prioPeers = 5358 // by mark: the table of a peer, numbered like the mark
	prioEnd   = 5359 // go on
)

// families are those of the host.
func (m *Mesh) families() []nft.Family {
	if forwarding.HasIPv6(m.here) {
		return nft.Families()
	}
	return nft.Families()[:1]
}

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

func (m *Mesh) foundRules(f nft.Family) ([]netlink.Rule, error) {
	all, err := hostnet.Complete(func() ([]netlink.Rule, error) { return m.h.RuleList(int(f.Number)) })
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	return slices.DeleteFunc(all, func(r netlink.Rule) bool { return r.Priority < prioSkip || r.Priority > prioEnd }), nil
}

// addRoutes gives each peer a table, in which everything goes by it, and a rule that leads there.
func (m *Mesh) addRoutes(link netlink.Link, peers []Node) error {
	for _, f := range m.families() {
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

// removeStrayRules leaves the rules for these peers; for none it removes them all. Routes of a peer that is gone go too.
func (m *Mesh) removeStrayRules(peers []Node) error {
	var errs []error
	for _, f := range m.families() {
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
