//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dockerUser is the chain that dockerd leaves to others: it jumps there first, and
// keeps its content when it writes its own rules anew.
const dockerUser = "DOCKER-USER"

// acceptForwarding lets the bridge's packets through the chains of others that
// drop what is forwarded: dockerd's and ufw's `ip filter FORWARD`, or a table of
// the host's own. An accept in a table of ours could not: every base chain is
// asked, and one drop is final. What cannot be done is logged: a host's firewall
// is its owner's, and containers that publish nothing work all the same.
func (r *rules) acceptForwarding() {
	if err := r.with(r.addAccepts); err != nil {
		r.log.Warn("the host's firewall may drop what is forwarded to and from containers", "err", err)
	}
	if b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err == nil && len(b) > 0 {
		r.log.Info("legacy iptables rules are in force beside nftables; when their FORWARD policy is DROP, containers need: iptables-legacy -I FORWARD -i " +
			r.bridge + " -j ACCEPT, and the same with -o")
	}
}

func (r *rules) addAccepts(c *nftables.Conn) error {
	chains, err := r.droppingChains(c)
	if err != nil {
		return err
	}
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		if r.countOurs(rules) == 2 {
			continue
		}
		for _, old := range rules {
			if r.isOurs(old) {
				if err := c.DelRule(old); err != nil {
					return err
				}
			}
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
			c.InsertRule(&nftables.Rule{
				Table: ch.Table, Chain: ch, UserData: r.tag(),
				// The shape that iptables gives to `-i swarm0 -j ACCEPT`, so that it can list it.
				Exprs: join(iface(key, expr.CmpOpEq, r.bridge), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
			})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("accept forwarding for %s: %w", r.bridge, err)
	}
	return nil
}

// droppingChains lists where our accept rules belong: for each base chain on the
// forward hook with policy drop, the chain itself, or DOCKER-USER of its table.
func (r *rules) droppingChains(c *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	forUsers := make(map[nftables.Table]*nftables.Chain)
	for _, ch := range all {
		if ch.Name == dockerUser {
			forUsers[key(ch.Table)] = ch
		}
	}
	var out []*nftables.Chain
	for _, ch := range all {
		family := ch.Table.Family
		if family != nftables.TableFamilyIPv4 && family != nftables.TableFamilyINet {
			continue
		}
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		if u := forUsers[key(ch.Table)]; u != nil {
			ch = u
		}
		out = append(out, ch)
	}
	return out, nil
}

func key(t *nftables.Table) nftables.Table {
	return nftables.Table{Name: t.Name, Family: t.Family}
}

func (r *rules) tag() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, r.tableName())
}

func (r *rules) isOurs(rule *nftables.Rule) bool {
	comment, ok := userdata.GetString(rule.UserData, userdata.TypeComment)
	return ok && comment == r.tableName()
}

func (r *rules) countOurs(rules []*nftables.Rule) int {
	n := 0
	for _, rule := range rules {
		if r.isOurs(rule) {
			n++
		}
	}
	return n
}

// remove takes away our table and our rules in others' chains.
func (r *rules) remove() error {
	return r.with(func(c *nftables.Conn) error {
		t := r.table()
		c.AddTable(t)
		c.DelTable(t)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("remove nftables table %s: %w", t.Name, err)
		}
		return r.removeAccepts(c)
	})
}

func (r *rules) removeAccepts(c *nftables.Conn) error {
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	for _, ch := range chains {
		// Any of these may have had a drop policy when the rule was made.
		if ch.Table.Family != nftables.TableFamilyIPv4 && ch.Table.Family != nftables.TableFamilyINet {
			continue
		}
		if ch.Name != dockerUser && (ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward) {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("list rules of %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		for _, rule := range rules {
			if r.isOurs(rule) {
				if err := c.DelRule(rule); err != nil {
					return err
				}
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove forwarding rules of %s: %w", r.bridge, err)
	}
	return nil
}

// check mends what others have removed.
func (r *rules) check(published map[netip.Addr][]Port) error {
	var intact bool
	// What cannot be read is not intact; an error here only ends the connection.
	_ = r.with(func(c *nftables.Conn) (err error) {
		intact, err = r.intact(c, published)
		return err
	})
	if !intact {
		r.log.Warn("nftables table was changed by another program, writing it again", "table", r.tableName())
		if err := r.sync(published); err != nil {
			return err
		}
	}
	return r.with(r.addAccepts)
}

// intact compares what is cheap to compare: the chains' lengths and the maps' sizes.
func (r *rules) intact(c *nftables.Conn, published map[netip.Addr][]Port) (bool, error) {
	t := r.table()
	for name, want := range map[string]int{"guard": 2, "in": 2, "out": 2, "back": 3} {
		rules, err := c.GetRules(t, &nftables.Chain{Name: name, Table: t})
		if err != nil || len(rules) != want {
			return false, err
		}
	}
	var wantAny, wantOne int
	for addr, ports := range published {
		a, o := elements(addr, ports)
		wantAny, wantOne = wantAny+len(a), wantOne+len(o)
	}
	gotAny, err := c.GetSetElements(r.anyMap(t))
	if err != nil || len(gotAny) != wantAny {
		return false, err
	}
	gotOne, err := c.GetSetElements(r.oneMap(t))
	return err == nil && len(gotOne) == wantOne, err
}

// forgetUDP drops the tracked flows to published UDP ports: without a handshake,
// an old flow would go where it went before for as long as its client talks.
func forgetUDP(ports []Port) error {
	var f udpFlows
	for _, p := range ports {
		if p.Protocol == "udp" {
			f = append(f, p.Published)
		}
	}
	if len(f) == 0 {
		return nil
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("forget flows to UDP ports: %w", err)
	}
	return nil
}

type udpFlows []uint16

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f udpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, port := range f {
		if flow.Forward.Protocol == unix.IPPROTO_UDP && flow.Forward.DstPort == port {
			return true
		}
	}
	return false
}

// watchRules calls check after changes to the host's nftables, at most once an
// interval. Losing notices is harmless: the loss itself is one.
func watchRules(ctx context.Context, interval time.Duration, check func(context.Context) error, log *slog.Logger) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables events")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		_, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch nftables: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		// What comes after this is looked at in the next round.
		drain(f, buf)
		if ctx.Err() != nil {
			return nil
		}
		if err := check(ctx); err != nil && ctx.Err() == nil {
			log.Warn("check the host's firewall rules", "err", err)
		}
	}
}

// drain discards the notices that have queued up.
func drain(f *os.File, buf []byte) {
	for {
		_ = f.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	_ = f.SetReadDeadline(time.Time{})
}
