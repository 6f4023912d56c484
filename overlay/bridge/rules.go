//go:build linux

package bridge

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// portDst is the offset of the destination port in a TCP, UDP or SCTP header.
const portDst = 2

// rules holds the nftables rules of the bridge network. The inet table has these maps, sets and
// chains. Each map and set exists for IPv6 too, with the suffix 6:
//
//	map any4:       protocol . port -> address . port            ports published on all addresses of the host
//	map one4:       address . protocol . port -> address . port  ports published on one address of the host
//	set noegress4:  address                                      tasks that may not open connections
//	sets ports, hostaccess4 and connrate4:                       see blockedPorts
//
//	in (prerouting, nat): drops connections to task addresses that come neither from the bridge nor
//	      from lo, and connections from the bridge to 127.0.0.0/8 or [::1]
//	in, out (output, nat): redirect published ports: first by `one`, then by `any` if the
//	      destination is an address of the host
//	masq (postrouting, nat): masquerades connections that leave the bridge, and connections to
//	      published ports that come from the host's loopback address or from a task on the bridge
//	forward-filter (forward): lets only redirected connections and answers go to the bridge, and
//	      sends packets from the bridge to `egress`
//	egress, and host-input (input): both drop packets to the blocked UDP port and packets that
//	      conntrack finds invalid, limit the rate of new connections, reject connections that tasks in
//	      `noegress` open, and reject packets to the cluster's own ports, see blockedPorts. egress
//	      also marks redirected packets, which the chain `isolated` must let through. host-input also
//	      drops packets to loopback addresses
//
// A table of the same name in the bridge family filters frames. It also sees frames that never
// reach the hooks of the inet table:
//
//	set own4:       cable . hardware address . address           the addresses that a task may send from
//	set reachable4: address                                      tasks that are not isolated
//	source (prerouting): sends frames from a cable to `sender`, before the bridge learns from them
//	sender: drops frames whose source, ARP sender or advertised address is not the task's own. The
//	      sets noegress and hostaccess rely on it, because they match source addresses
//	isolated (forward): drops frames from and to an isolated task, except redirected ones
//	bridge-input (input): drops frames from tasks to addresses of the subnet, because the host would
//	      look for a neighbour for each unused address. Frames to the gateway pass. Frames from a task
//	      that is not isolated to an address in `reachable` pass too. The chain also drops frames for
//	      the reserved multicast addresses of bridges
//
// Ports are elements of the maps, so the number of rules does not depend on the number of ports.
type rules struct {
	bridge string
	// index is the interface index of the bridge.
	index int
	// subnet6 is not valid on a host without IPv6.
	subnet, subnet6 netip.Prefix
	// blockedUDPPort is a UDP port to which tasks cannot send. Zero blocks no port.
	blockedUDPPort uint16
	blocked        blockedPorts
	log            *slog.Logger
	conn           nft.Conn
}

// taskRules is the input of the rules for one task.
type taskRules struct {
	// cable is the name of the host's end of the task's veth pair.
	cable                string
	ports                []Port
	noEgress, hostAccess bool
}

func (r *rules) tableName() string {
	if r.bridge == "swarm0" {
		return "swarm-bridge"
	}
	return "swarm-bridge-" + r.bridge
}

func (r *rules) accepts() nft.Accepts { return Accepts(r.bridge) }

// Accepts returns the accept rules for the bridge with this name in the chains of other programs.
func Accepts(device string) nft.Accepts {
	return nft.Accepts{Interface: device, Tag: (&rules{bridge: device}).tableName()}
}

func (r *rules) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: r.tableName()}
}

// These constants are the indexes of the sets that rules.sets returns.
const (
	anySet = iota
	oneSet
	noEgressSet
	hostAccessSet
	ownSet
	reachableSet
	setCount
)

// sets returns the sets of one address family. own and reachable are in the bridge table, the other
// sets are in the inet table.
func (r *rules) sets(f nft.Family) [setCount]*nftables.Set {
	id := uint32(f.Number) * 10
	to := nftables.MustConcatSetType(f.Address, nftables.TypeInetService)
	return [setCount]*nftables.Set{
		{
			Table: r.table(), ID: id, Name: "any" + f.Digit, IsMap: true, Concatenation: true, DataType: to,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		},
		{
			Table: r.table(), ID: id + 1, Name: "one" + f.Digit, IsMap: true, Concatenation: true, DataType: to,
			KeyType: nftables.MustConcatSetType(f.Address, nftables.TypeInetProto, nftables.TypeInetService),
		},
		{Table: r.table(), ID: id + 2, Name: "noegress" + f.Digit, KeyType: f.Address},
		{Table: r.table(), ID: id + 3, Name: "hostaccess" + f.Digit, KeyType: f.Address},
		{
			Table: r.frameTable(), ID: id + 4, Name: "own" + f.Digit, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, f.Address),
		},
		{Table: r.frameTable(), ID: id + 5, Name: "reachable" + f.Digit, KeyType: f.Address},
	}
}

// elements returns the elements of each set of a family for these tasks, by their IPv4 addresses.
func (r *rules) elements(f nft.Family, uses map[netip.Addr]taskRules) (out [setCount][]nftables.SetElement) {
	for first, u := range uses {
		addr := r.addressIn(f, first)
		if !addr.IsValid() {
			continue
		}
		out[ownSet] = append(out[ownSet], ownElements(f, u.cable, macOf(first), addr)...)
		if strings.HasPrefix(u.cable, cablePrefix) {
			out[reachableSet] = append(out[reachableSet], nftables.SetElement{Key: addr.AsSlice()})
		}
		for _, p := range u.ports {
			key := portKey(p)
			e := nftables.SetElement{Key: key, Val: append(addr.AsSlice(), nft.Port(p.Target)...)}
			switch {
			case !p.HostIP.IsValid():
				out[anySet] = append(out[anySet], e)
			case f.Of(p.HostIP):
				e.Key = append(p.HostIP.AsSlice(), key...)
				out[oneSet] = append(out[oneSet], e)
			}
		}
		if u.noEgress {
			out[noEgressSet] = append(out[noEgressSet], nftables.SetElement{Key: addr.AsSlice()})
		}
		if u.hostAccess {
			out[hostAccessSet] = append(out[hostAccessSet], nftables.SetElement{Key: addr.AsSlice()})
		}
	}
	return out
}

// addressIn returns the address in family f of the task with this IPv4 address.
func (r *rules) addressIn(f nft.Family, addr netip.Addr) netip.Addr {
	if f.Of(addr) {
		return addr
	}
	return ipv6Of(r.subnet6, addr, r.subnet)
}

// sync replaces both tables in one transaction.
func (r *rules) sync(uses map[netip.Addr]taskRules) error {
	return r.conn.Do(func(c *nftables.Conn) error {
		t := r.table()
		for _, t := range []*nftables.Table{t, r.frameTable()} {
			// Deleting a table that does not exist would fail, so add it first.
			c.AddTable(t)
			c.DelTable(t)
			c.AddTable(t)
		}
		for _, f := range nft.Families() {
			elements := r.elements(f, uses)
			for i, s := range r.sets(f) {
				if err := c.AddSet(s, nil); err != nil {
					return fmt.Errorf("nftables: %w", err)
				}
				if err := nft.AddElements(c, s, elements[i]); err != nil {
					return err
				}
			}
		}
		if err := r.addPorts(c); err != nil {
			return err
		}
		nft.WriteChains(c, t, r.chains())
		nft.WriteChains(c, r.frameTable(), r.frameChains())
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with inet, bridge, nat and fib): %w", t.Name, err)
		}
		return nil
	})
}

// publish adds the elements of a task to the sets; unpublish deletes them.
func (r *rules) publish(addr netip.Addr, u taskRules) error {
	return r.change(addr, u, nft.AddElements)
}

func (r *rules) unpublish(addr netip.Addr, u taskRules) error {
	return r.change(addr, u, nft.DeleteElements)
}

func (r *rules) change(addr netip.Addr, u taskRules, apply func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	err := r.conn.Do(func(c *nftables.Conn) error {
		for _, f := range nft.Families() {
			elements := r.elements(f, map[netip.Addr]taskRules{addr: u})
			for i, s := range r.sets(f) {
				if err := apply(c, s, elements[i]); err != nil {
					return err
				}
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("change rules for address %s, published ports %v: %w", addr, u.ports, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return deleteUDPFlows(u.ports)
}

// rangeOf returns the subnet of the family. It is not valid for IPv6 on a host without IPv6.
func (r *rules) rangeOf(f nft.Family) netip.Prefix {
	if f.Number == unix.NFPROTO_IPV6 {
		return r.subnet6
	}
	return r.subnet
}

func (r *rules) enabledFamilies() []nft.Family {
	return slices.DeleteFunc(nft.Families(), func(f nft.Family) bool { return !r.rangeOf(f).IsValid() })
}

func (r *rules) from(op expr.CmpOp) []expr.Any { return nft.Device(expr.MetaKeyIIF, op, r.index) }
func (r *rules) to(op expr.CmpOp) []expr.Any   { return nft.Device(expr.MetaKeyOIF, op, r.index) }

func (r *rules) chains() []*nft.Chain {
	in := &nft.Chain{Name: "in", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Prio: nftables.ChainPriorityNATDest}
	out := &nft.Chain{Name: "out", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Prio: nftables.ChainPriorityNATDest}
	masquerade := &nft.Chain{Name: "masq", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Prio: nftables.ChainPriorityNATSource}
	for _, f := range r.enabledFamilies() {
		sets, subnet := r.sets(f), r.rangeOf(f)
		in.Add(f.Is(), f.DstIn(expr.CmpOpEq, f.Loopback()), r.from(expr.CmpOpEq), nft.Drop())
		in.Add(f.Is(), f.DstIn(expr.CmpOpEq, subnet), r.from(expr.CmpOpNeq), nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), nft.Drop())
		for _, ch := range []*nft.Chain{in, out} {
			ch.Add(f.Is(), lookupOne(f, sets[oneSet]))
			ch.Add(f.Is(), nft.ToLocal(), lookup(f, sets[anySet], 0))
		}
		masquerade.Add(f.Is(), f.SrcIn(expr.CmpOpEq, subnet), r.to(expr.CmpOpNeq), &expr.Masq{})
		masquerade.Add(f.Is(), r.to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, f.Loopback()), &expr.Masq{})
		masquerade.Add(f.Is(), r.to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, subnet), nft.Redirected(), &expr.Masq{})
	}
	return append([]*nft.Chain{in, out, masquerade}, r.filters()...)
}

// filters returns the filter chains. Unlike nat chains they see every packet of the host, so a
// packet that does not concern the bridge must leave them after as few rules as possible.
func (r *rules) filters() []*nft.Chain {
	forwardFilter := &nft.Chain{Name: "forward-filter", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Prio: nftables.ChainPriorityFilter}
	forwardFilter.Add(r.from(expr.CmpOpEq), &expr.Verdict{Kind: expr.VerdictGoto, Chain: "egress"})
	forwardFilter.Add(r.to(expr.CmpOpNeq), nft.Return())
	forwardFilter.Add(nft.Redirected(), nft.Return())
	forwardFilter.Add(nft.Answering(), nft.Return())
	// All packets that come here go to the bridge, so the match on the device is redundant. It
	// keeps nft.Accepts from adding accept rules to this chain: nft.Accepts takes a chain that ends
	// in a drop without a match for the chain of a foreign firewall.
	forwardFilter.Add(r.to(expr.CmpOpEq), nft.Drop())

	egress := &nft.Chain{Name: "egress"}
	egress.Add(r.markRedirected())
	hostInput := &nft.Chain{Name: "host-input", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Prio: nftables.ChainPriorityFilter}
	hostInput.Add(r.from(expr.CmpOpNeq), nft.Return())
	for _, ch := range []*nft.Chain{egress, hostInput} {
		if r.blockedUDPPort != 0 {
			ch.Add(nft.DatagramTo(r.blockedUDPPort), nft.Drop())
		}
		ch.Add(nft.Answering(), nft.Return())
		// A packet without a connection has no direction, so the rules below would let it pass.
		ch.Add(nft.Invalid(), nft.Drop())
		for _, f := range r.enabledFamilies() {
			ch.Add(r.limitNewConnections(f))
			noEgress := r.sets(f)[noEgressSet]
			// Untracked packets have no direction and pass, so that a task can resolve the
			// gateway's address.
			ch.Add(nft.Asking(), f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: noEgress.Name, SetID: noEgress.ID},
				rejectProhibited())
		}
	}
	for _, f := range r.enabledFamilies() {
		if f.Of(linkLocals().Addr()) {
			egress.Add(f.Is(), f.DstIn(expr.CmpOpEq, linkLocals()), nft.Drop()) // No other link has these addresses.
		}
		// Neighbour discovery stays on the bridge, so untracked packets of these tasks must not
		// leave it.
		noEgress := r.sets(f)[noEgressSet]
		egress.Add(r.to(expr.CmpOpNeq), f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: noEgress.Name, SetID: noEgress.ID},
			nft.Drop())
		hostInput.Add(r.rejectClusterPorts(f))
		hostInput.Add(f.Is(), f.DstIn(expr.CmpOpEq, f.Loopback()), nft.Drop())
	}
	// These packets go to a task on the bridge or to a published port, not to a port of the
	// cluster.
	egress.Add(r.to(expr.CmpOpEq), nft.Return())
	egress.Add(nft.Redirected(), nft.Return())
	for _, f := range r.enabledFamilies() {
		egress.Add(r.rejectClusterPorts(f))
	}
	return []*nft.Chain{forwardFilter, egress, hostInput}
}

// lookupOne redirects to the value of (daddr . l4proto . th dport) in the map one.
func lookupOne(f nft.Family, s *nftables.Set) []expr.Any {
	return nft.Join(f.LoadDst(nft.Reg), lookup(f, s, f.Words()))
}

// lookup redirects to the value of (… l4proto . th dport) in a map. The first skip words of the key
// must be in the registers already.
func lookup(f nft.Family, s *nftables.Set, skip int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(skip)},
		&expr.Payload{DestRegister: nft.Reg32(skip + 1), Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		f.DNAT(true),
	}
}

// removeRules removes our tables and our accept rules in the chains of other programs.
func (r *rules) removeRules() error {
	for _, t := range []*nftables.Table{r.table(), r.frameTable()} {
		if err := nft.RemoveTable(&r.conn, t); err != nil {
			return err
		}
	}
	return r.accepts().Remove(&r.conn)
}

// check repairs the rules that other programs have removed.
func (r *rules) check(uses map[netip.Addr]taskRules) error {
	var intact bool
	// The tables are not intact if they cannot be read. Do closes the connection after an error.
	_ = r.conn.Do(func(c *nftables.Conn) (err error) {
		intact, err = r.intact(c, uses)
		return err
	})
	if !intact {
		r.log.Warn("another program changed our nftables table; it is written again", "table", r.tableName())
		if err := r.sync(uses); err != nil {
			return err
		}
	}
	return r.accepts().Mend(&r.conn)
}

// intact compares only the length of each chain and the size of each set, because that is cheap.
func (r *rules) intact(c *nftables.Conn, uses map[netip.Addr]taskRules) (bool, error) {
	for t, chains := range map[*nftables.Table][]*nft.Chain{r.table(): r.chains(), r.frameTable(): r.frameChains()} {
		for _, ch := range chains {
			rules, err := c.GetRules(t, &nftables.Chain{Name: ch.Name, Table: t})
			if err != nil || len(rules) != len(ch.Rules) {
				return false, err
			}
		}
	}
	for _, f := range nft.Families() {
		want := r.elements(f, uses)
		for i, s := range r.sets(f) {
			got, err := c.GetSetElements(s)
			if err != nil || len(got) != len(want[i]) {
				return false, err
			}
		}
	}
	return r.portsIntact(c)
}
