//go:build linux

package bridge_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// The functions below change the kernel as other programs do, in the namespace of the calling
// thread.

func addRoute(dst, via string) error {
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(via)})
}

// addAddress6 adds an address to the namespace's eth0 that is usable at once.
func addAddress6(ns *netns.Namespace, addr string) error {
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return h.AddrAdd(link, a)
}

// viaGateway sends packets for the namespace's own address to the gateway, as a malicious task
// could.
func viaGateway(addr, gateway string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	own, err := netlink.ParseAddr("127.0.0.1/8")
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, own); err != nil {
		return err
	}
	return addRoute(addr+"/32", gateway)
}

// unguard flushes the chains that filter packets between tasks and the rest of the network.
func unguard() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: "swarm-bridge"}
	for _, name := range []string{"in", "forward-filter", "host-input"} {
		c.FlushChain(&nftables.Chain{Name: name, Table: t})
	}
	return c.Flush()
}

func deleteInside(path, link string) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

func flushRules() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.FlushRuleset()
	return c.Flush()
}

// flushOthers flushes the rules once, and then makes a harmless change.
func flushOthers() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	marker := &nftables.Table{Family: nftables.TableFamilyINet, Name: "flushed"}
	for _, t := range tables {
		if t.Name == marker.Name {
			c.DelTable(marker)
			c.AddTable(marker)
			return c.Flush()
		}
	}
	c.FlushRuleset()
	c.AddTable(marker)
	return c.Flush()
}

// dropForwarding adds a firewall that drops forwarded packets, like dockerd or an administrator.
func dropForwarding(family, table, chain string, dockerUser bool) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	f := map[string]nftables.TableFamily{"ip": nftables.TableFamilyIPv4, "inet": nftables.TableFamilyINet}[family]
	t := c.AddTable(&nftables.Table{Family: f, Name: table})
	drop := nftables.ChainPolicyDrop
	ch := c.AddChain(&nftables.Chain{
		Name: chain, Table: t, Type: nftables.ChainTypeFilter, Policy: &drop,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	if dockerUser {
		user := c.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: t})
		c.AddRule(&nftables.Rule{Table: t, Chain: user, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "DOCKER-USER"}}})
	}
	return c.Flush()
}

// remains lists the objects of the bridge network on the host.
func (w *world) remains() string {
	w.t.Helper()
	var out []string
	err := w.host.Do(func() error {
		links, err := hostnet.Complete(netlink.LinkList)
		if err != nil {
			return err
		}
		for _, l := range links {
			if n := l.Attrs().Name; n != "lo" && n != "eth0" {
				out = append(out, "interface "+n)
			}
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, ch := range chains {
			if strings.HasPrefix(ch.Table.Name, "swarm") {
				out = append(out, "table "+ch.Table.Name)
			}
			rules, err := c.GetRules(ch.Table, ch)
			if err != nil {
				return err
			}
			for _, r := range rules {
				if len(r.UserData) > 0 {
					out = append(out, fmt.Sprintf("rule in %s: %q", ch.Name, r.UserData))
				}
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, "pin "+e.Name())
	}
	return strings.Join(out, "\n")
}
