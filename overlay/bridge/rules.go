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

// rules is the nftables side. A table of ours; maps and rules of IPv6 are the like:
//
//	map any4:  protocol . port           -> address . port   ports on all of the host's addresses
//	map one4:  address . protocol . port -> address . port   ports on one of them
//	set inner4: addresses of tasks without a way out; more sets are those of guard
//	in (prerouting), nat: who is not on the bridge cannot name an address in it; who is on it cannot name 127.0.0.0/8
//	in, out (output), nat: look the destination up in `one`, then in `any` if it is an address of the host
//	back (postrouting), nat: masquerade what leaves the bridge for elsewhere, and
//	      published ports used by the host's loopback or from the bridge itself
//	fence (forward): to the bridge goes what was redirected to it, and answers; what comes from it passes `outward`
//	outward, moat (input): who is in `inner` only answers; outward marks what `apart` lets through;
//	      neither lets a task send to the port where hosts take each other's frames, moat nothing to 127.0.0.0/8;
//	      both refuse what is for the cluster's own ports, see guard, and drop what conntrack finds invalid
//
// A table of the same name in the bridge family judges frames, also those that never come to the host's own hooks:
//
//	set own4: cable . hardware address . address   who sends by which cable; what `inner` and `open` say of addresses rests on it
//	set mates4: addresses of tasks that are not apart
//	source (prerouting): what comes by a cable passes `sender`, before the bridge learns from it
//	sender: a task sends as itself, and answers for itself alone
//	apart (forward): nothing goes to or comes from a task that is apart, other than by the host
//	door (input): what is sent to the host is for the host, for elsewhere, or from one task that is not apart to another:
//	      for no other address of the range, which the host would look for, nor for bridges themselves
//
// Ports come and go as elements: the rules are the same for any number of them.
type rules struct {
	bridge string
	// index is the device's number.
	index int
	// subnet, and its like in IPv6, which is not valid where the host has no IPv6.
	subnet, subnet6 netip.Prefix
	// forbidden is the UDP port that tasks send nothing to; 0: none.
	forbidden uint16
	guard     guard
	log       *slog.Logger
	conn      nft.Conn
}

// use is what the rules know of a task.
type use struct {
	// cable names the host's end of it.
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

// Accepts are the rules in others' chains that let packets of the bridge's tasks through.
func Accepts(device string) nft.Accepts {
	return nft.Accepts{Interface: device, Tag: (&rules{bridge: device}).tableName()}
}

func (r *rules) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: r.tableName()}
}

// Indexes of sets: those of a family that hold what tasks have.
const (
	anySet = iota
	oneSet
	innerSet
	openSet
	ownSet
	mateSet
	setCount
)

// sets of one family: any, one, inner, open; and own and mates, in the table of frames.
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
		{Table: r.table(), ID: id + 2, Name: "inner" + f.Digit, KeyType: f.Address},
		{Table: r.table(), ID: id + 3, Name: "open" + f.Digit, KeyType: f.Address},
		{
			Table: r.frames(), ID: id + 4, Name: "own" + f.Digit, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, f.Address),
		},
		{Table: r.frames(), ID: id + 5, Name: "mates" + f.Digit, KeyType: f.Address},
	}
}

// elements spells uses out for the sets of a family.
func (r *rules) elements(f nft.Family, uses map[netip.Addr]use) (out [setCount][]nftables.SetElement) {
	for first, u := range uses {
		addr := r.in(f, first)
		if !addr.IsValid() {
			continue
		}
		out[ownSet] = append(out[ownSet], ownElements(f, u.cable, macOf(first), addr)...)
		if strings.HasPrefix(u.cable, cablePrefix) {
			out[mateSet] = append(out[mateSet], nftables.SetElement{Key: addr.AsSlice()})
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
			out[innerSet] = append(out[innerSet], nftables.SetElement{Key: addr.AsSlice()})
		}
		if u.hostAccess {
			out[openSet] = append(out[openSet], nftables.SetElement{Key: addr.AsSlice()})
		}
	}
	return out
}

// in is a task's address in the family; the argument is the IPv4 one.
func (r *rules) in(f nft.Family, addr netip.Addr) netip.Addr {
	if f.Of(addr) {
		return addr
	}
	return sixth(r.subnet6, addr, r.subnet)
}

// sync replaces the whole table in one transaction.
func (r *rules) sync(uses map[netip.Addr]use) error {
	return r.conn.Do(func(c *nftables.Conn) error {
		t := r.table()
		for _, t := range []*nftables.Table{t, r.frames()} {
			// Adding first makes the deletion valid when there was no table.
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
		if err := r.syncGuard(c); err != nil {
			return err
		}
		nft.WriteChains(c, t, r.chains())
		nft.WriteChains(c, r.frames(), r.frameChains())
		if err := c.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with inet, bridge, nat and fib): %w", t.Name, err)
		}
		return nil
	})
}

// publish tells the rules of a task; unpublish takes that back.
func (r *rules) publish(addr netip.Addr, u use) error { return r.change(addr, u, nft.AddElements) }

func (r *rules) unpublish(addr netip.Addr, u use) error { return r.change(addr, u, nft.DeleteElements) }

func (r *rules) change(addr netip.Addr, u use, apply func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	err := r.conn.Do(func(c *nftables.Conn) error {
		for _, f := range nft.Families() {
			elements := r.elements(f, map[netip.Addr]use{addr: u})
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
	return forgetUDP(u.ports)
}

// rangeOf is the bridge's in the family; IPv6's is not valid where the host has none.
func (r *rules) rangeOf(f nft.Family) netip.Prefix {
	if f.Number == unix.NFPROTO_IPV6 {
		return r.subnet6
	}
	return r.subnet
}

func (r *rules) families() []nft.Family {
	return slices.DeleteFunc(nft.Families(), func(f nft.Family) bool { return !r.rangeOf(f).IsValid() })
}

func (r *rules) from(op expr.CmpOp) []expr.Any { return nft.Device(expr.MetaKeyIIF, op, r.index) }
func (r *rules) to(op expr.CmpOp) []expr.Any   { return nft.Device(expr.MetaKeyOIF, op, r.index) }

func (r *rules) chains() []*nft.Chain {
	in := &nft.Chain{Name: "in", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Prio: nftables.ChainPriorityNATDest}
	out := &nft.Chain{Name: "out", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Prio: nftables.ChainPriorityNATDest}
	back := &nft.Chain{Name: "back", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Prio: nftables.ChainPriorityNATSource}
	for _, f := range r.families() {
		sets, subnet := r.sets(f), r.rangeOf(f)
		in.Add(f.Is(), f.DstIn(expr.CmpOpEq, f.Loopback()), r.from(expr.CmpOpEq), nft.Drop())
		in.Add(f.Is(), f.DstIn(expr.CmpOpEq, subnet), r.from(expr.CmpOpNeq), nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"), nft.Drop())
		for _, ch := range []*nft.Chain{in, out} {
			ch.Add(f.Is(), lookupOne(f, sets[oneSet]))
			ch.Add(f.Is(), nft.ToLocal(), lookup(f, sets[anySet], 0))
		}
		back.Add(f.Is(), f.SrcIn(expr.CmpOpEq, subnet), r.to(expr.CmpOpNeq), &expr.Masq{})
		back.Add(f.Is(), r.to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, f.Loopback()), &expr.Masq{})
		back.Add(f.Is(), r.to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, subnet), nft.Redirected(), &expr.Masq{})
	}
	return append([]*nft.Chain{in, out, back}, r.filters()...)
}

// filters see every packet, not only the first of a connection: what is not theirs to judge passes as few rules as can be.
func (r *rules) filters() []*nft.Chain {
	fence := &nft.Chain{Name: "fence", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Prio: nftables.ChainPriorityFilter}
	fence.Add(r.from(expr.CmpOpEq), &expr.Verdict{Kind: expr.VerdictGoto, Chain: "outward"})
	fence.Add(r.to(expr.CmpOpNeq), nft.Return())
	fence.Add(nft.Redirected(), nft.Return())
	fence.Add(nft.Answering(), nft.Return())
	// It says by which device once more: a drop of everything is what a firewall ends in, which accept rules of ours go into.
	fence.Add(r.to(expr.CmpOpEq), nft.Drop())

	outward := &nft.Chain{Name: "outward"}
	outward.Add(r.markRedirected())
	moat := &nft.Chain{Name: "moat", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Prio: nftables.ChainPriorityFilter}
	moat.Add(r.from(expr.CmpOpNeq), nft.Return())
	for _, ch := range []*nft.Chain{outward, moat} {
		if r.forbidden != 0 {
			ch.Add(nft.DatagramTo(r.forbidden), nft.Drop())
		}
		ch.Add(nft.Answering(), nft.Return())
		// What belongs to no connection has no direction either, and would pass what follows.
		ch.Add(nft.Invalid(), nft.Drop())
		for _, f := range r.families() {
			ch.Add(r.pace(f))
			inner := r.sets(f)[innerSet]
			// What is not tracked neither asks nor answers: a neighbour may be looked for.
			ch.Add(nft.Asking(), f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: inner.Name, SetID: inner.ID},
				prohibited())
		}
	}
	for _, f := range r.families() {
		if f.Of(linkLocals().Addr()) {
			outward.Add(f.Is(), f.DstIn(expr.CmpOpEq, linkLocals()), nft.Drop()) // An answer to nobody.
		}
		// A neighbour is looked for on the bridge alone.
		inner := r.sets(f)[innerSet]
		outward.Add(r.to(expr.CmpOpNeq), f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: inner.Name, SetID: inner.ID},
			nft.Drop())
		moat.Add(r.refuse(f))
		moat.Add(f.Is(), f.DstIn(expr.CmpOpEq, f.Loopback()), nft.Drop())
	}
	// The port of a neighbour, or of a service that is published, is the container's own.
	outward.Add(r.to(expr.CmpOpEq), nft.Return())
	outward.Add(nft.Redirected(), nft.Return())
	for _, f := range r.families() {
		outward.Add(r.refuse(f))
	}
	return []*nft.Chain{fence, outward, moat}
}

// lookupOne: dnat to (daddr . l4proto . th dport) in map one.
func lookupOne(f nft.Family, s *nftables.Set) []expr.Any {
	return nft.Join(f.LoadDst(nft.Reg), lookup(f, s, f.Words()))
}

// lookup: dnat to (... l4proto . th dport) in a map; skip words of the key are loaded.
func lookup(f nft.Family, s *nftables.Set, skip int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: nft.Reg32(skip)},
		&expr.Payload{DestRegister: nft.Reg32(skip + 1), Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		f.DNAT(true),
	}
}

// remove takes away our table and our rules in others' chains.
func (r *rules) remove() error {
	for _, t := range []*nftables.Table{r.table(), r.frames()} {
		if err := nft.RemoveTable(&r.conn, t); err != nil {
			return err
		}
	}
	return r.accepts().Remove(&r.conn)
}

// check mends what others have removed.
func (r *rules) check(uses map[netip.Addr]use) error {
	var intact bool
	// What cannot be read is not intact; an error here only ends the connection.
	_ = r.conn.Do(func(c *nftables.Conn) (err error) {
		intact, err = r.intact(c, uses)
		return err
	})
	if !intact {
		r.log.Warn("nftables table was changed by another program, writing it again", "table", r.tableName())
		if err := r.sync(uses); err != nil {
			return err
		}
	}
	return r.accepts().Mend(&r.conn)
}

// intact compares what is cheap to compare: the chains' lengths and the sets' sizes.
func (r *rules) intact(c *nftables.Conn, uses map[netip.Addr]use) (bool, error) {
	for t, chains := range map[*nftables.Table][]*nft.Chain{r.table(): r.chains(), r.frames(): r.frameChains()} {
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
	return r.guardIntact(c)
}
