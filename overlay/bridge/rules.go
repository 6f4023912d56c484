//go:build linux

package bridge

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostport"
	"swarm/overlay/nft"
)

// portDst is the offset of the destination port in a TCP, UDP or SCTP header.
const portDst = 2

// rules is the nftables side. A table of ours; maps and rules of IPv6 are the like:
//
//	map any4:  protocol . port           -> address . port   ports on all of the host's addresses
//	map one4:  address . protocol . port -> address . port   ports on one of them
//	set inner4: addresses of tasks without a way out
//	guard (prerouting, raw): who is not on the bridge cannot name an address in it;
//	      who is on it cannot name 127.0.0.0/8
//	in (prerouting), out (output), nat: look the destination up in `one`, then in
//	      `any` if it is an address of the host
//	back (postrouting), nat: masquerade what leaves the bridge for elsewhere, and
//	      published ports used by the host's loopback or from the bridge itself
//	fence (forward), moat (input): who is in `inner` only answers; fence marks what `apart` lets through;
//	      neither lets a task send to the port where hosts take each other's frames
//
// A table of the same name in the bridge family keeps apart what never comes to the host's own hooks:
//
//	apart (forward): nothing goes to or comes from a task that is apart, other than by the host
//	door (input): what is sent to the host is for the host, or for elsewhere: not for a neighbour
//
// Ports come and go as elements: the rules are the same for any number of them.
type rules struct {
	bridge string
	// subnet, and its like in IPv6, which is not valid where the host has no IPv6.
	subnet, subnet6 netip.Prefix
	// forbidden is the UDP port that tasks send nothing to; 0: none.
	forbidden uint16
	log       *slog.Logger
	conn      nft.Conn
}

// use is what the rules know of a task.
type use struct {
	ports    []Port
	noEgress bool
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

// sets of one family: any, one, inner.
func (r *rules) sets(f nft.Family) [3]*nftables.Set {
	id := uint32(f.Number) * 10
	to := nftables.MustConcatSetType(f.Address, nftables.TypeInetService)
	return [3]*nftables.Set{
		{
			Table: r.table(), ID: id, Name: "any" + f.Digit, IsMap: true, Concatenation: true, DataType: to,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		},
		{
			Table: r.table(), ID: id + 1, Name: "one" + f.Digit, IsMap: true, Concatenation: true, DataType: to,
			KeyType: nftables.MustConcatSetType(f.Address, nftables.TypeInetProto, nftables.TypeInetService),
		},
		{Table: r.table(), ID: id + 2, Name: "inner" + f.Digit, KeyType: f.Address},
	}
}

// elements spells uses out for the sets of a family.
func (r *rules) elements(f nft.Family, uses map[netip.Addr]use) (out [3][]nftables.SetElement) {
	for addr, u := range uses {
		if addr = r.in(f, addr); !addr.IsValid() {
			continue
		}
		for _, p := range u.ports {
			key := append(nft.Pad([]byte{hostport.Number(p.Protocol)}), nft.Port(p.Published)...)
			e := nftables.SetElement{Key: key, Val: append(addr.AsSlice(), nft.Port(p.Target)...)}
			switch {
			case !p.HostIP.IsValid():
				out[0] = append(out[0], e)
			case f.Of(p.HostIP):
				e.Key = append(p.HostIP.AsSlice(), key...)
				out[1] = append(out[1], e)
			}
		}
		if u.noEgress {
			out[2] = append(out[2], nftables.SetElement{Key: addr.AsSlice()})
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
		// Adding first makes the deletion valid when there was no table.
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
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
		for _, ch := range r.chains() {
			ch.write(c, t)
		}
		r.syncFrames(c)
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
			return fmt.Errorf("change published ports %v: %w", u.ports, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return forgetUDP(u.ports)
}

// chain is a base chain with its rules.
type chain struct {
	name  string
	typ   nftables.ChainType
	hook  *nftables.ChainHook
	prio  *nftables.ChainPriority
	rules [][]expr.Any
}

func (ch *chain) add(parts ...any) { ch.rules = append(ch.rules, nft.Join(parts...)) }

func (ch *chain) write(c *nftables.Conn, t *nftables.Table) {
	to := c.AddChain(&nftables.Chain{Name: ch.name, Table: t, Type: ch.typ, Hooknum: ch.hook, Priority: ch.prio})
	for _, r := range ch.rules {
		c.AddRule(&nftables.Rule{Table: t, Chain: to, Exprs: r})
	}
}

func (r *rules) chains() []*chain {
	guard := &chain{"guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nil}
	in := &chain{"in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, nil}
	out := &chain{"out", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, nil}
	back := &chain{"back", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nil}
	fence := &chain{"fence", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, nil}
	moat := &chain{"moat", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nil}
	from := func(op expr.CmpOp, name string) []expr.Any { return nft.Interface(expr.MetaKeyIIFNAME, op, name) }
	to := func(op expr.CmpOp) []expr.Any { return nft.Interface(expr.MetaKeyOIFNAME, op, r.bridge) }
	// A name is what costs most to compare: what is not ours to judge passes one, as early as can be told.
	for _, ch := range []*chain{fence, moat} {
		ch.add(from(expr.CmpOpNeq, r.bridge), &expr.Verdict{Kind: expr.VerdictReturn})
	}
	fence.add(r.markRedirected())
	for _, ch := range []*chain{fence, moat} {
		if r.forbidden != 0 {
			ch.add(nft.Protocol(expr.CmpOpEq, unix.IPPROTO_UDP),
				&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
				nft.Equal(binary.BigEndian.AppendUint16(nil, r.forbidden)), &expr.Verdict{Kind: expr.VerdictDrop})
		}
	}
	for _, f := range nft.Families() {
		subnet := r.subnet
		loopback := netip.MustParsePrefix("127.0.0.0/8")
		if f.Number == unix.NFPROTO_IPV6 {
			subnet, loopback = r.subnet6, netip.MustParsePrefix("::1/128")
		}
		if !subnet.IsValid() {
			continue
		}
		sets := r.sets(f)
		guard.add(f.Is(), f.DstIn(expr.CmpOpEq, loopback), from(expr.CmpOpEq, r.bridge), &expr.Verdict{Kind: expr.VerdictDrop})
		guard.add(f.Is(), f.DstIn(expr.CmpOpEq, subnet), from(expr.CmpOpNeq, r.bridge), from(expr.CmpOpNeq, "lo"), &expr.Verdict{Kind: expr.VerdictDrop})
		for _, ch := range []*chain{in, out} {
			ch.add(f.Is(), lookupOne(f, sets[1]))
			ch.add(f.Is(), nft.ToLocal(), lookup(f, sets[0], 0))
		}
		back.add(f.Is(), f.SrcIn(expr.CmpOpEq, subnet), to(expr.CmpOpNeq), &expr.Masq{})
		back.add(f.Is(), to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, loopback), &expr.Masq{})
		back.add(f.Is(), to(expr.CmpOpEq), f.SrcIn(expr.CmpOpEq, subnet), nft.Redirected(), &expr.Masq{})
		for _, ch := range []*chain{fence, moat} {
			ch.add(nft.Asking(), f.Is(), f.LoadSrc(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: sets[2].Name, SetID: sets[2].ID},
				&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
		}
	}
	return []*chain{guard, in, out, back, fence, moat}
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
	for t, chains := range map[*nftables.Table][]*chain{r.table(): r.chains(), r.frames(): r.frameChains()} {
		for _, ch := range chains {
			rules, err := c.GetRules(t, &nftables.Chain{Name: ch.name, Table: t})
			if err != nil || len(rules) != len(ch.rules) {
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
	return true, nil
}
