//go:build linux

package vip

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// The table of a namespace:
//
//	map slots4-10:  vip . 0-9 -> backend   services with a table of ten slots; the like for each size in use, and IPv6
//	set none4:      vip                    services without a backend
//	set datagrams4: vip                    filled by the rules: who was sent anything but TCP
//	sets accepted and made: interface      filled by the rules: how many connections began there (count.go)
//	chains out and again (output, nat), one after the other: to
//	chain vip: for each size, look up `daddr . random`, and dnat; `none` goes to
//	chain refuse: reset TCP, tell the others that the port is unreachable
//
// A service is in one map at a time, and moves in one transaction. A packet is not judged in one: that the kernel commits
// between two lookups may hide the service in both maps, and so each is looked up twice. The number of rules does not depend on
// that of services.
const tableName = "swarm-vip"

// rung is a size of slots tables in one family.
type rung struct {
	family int // index of nft.Families
	size   int
}

func (r rung) name() string { return fmt.Sprintf("slots%s-%d", nft.Families()[r.family].Digit, r.size) }

func rungOf(vip netip.Addr, size int) rung {
	if vip.Is4() {
		return rung{0, size}
	}
	return rung{1, size}
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

func vipChain() *nftables.Chain { return &nftables.Chain{Table: table(), Name: "vip"} }

// set describes a rung's map; a rung of size 0 is the set of those without a backend.
func (r rung) set() *nftables.Set {
	f := nft.Families()[r.family]
	// The number ties rules to sets of one batch.
	s := &nftables.Set{Table: table(), ID: uint32(100 + 2*r.size + r.family)}
	if r.size == 0 {
		s.Name, s.KeyType = "none"+f.Digit, f.Address
		return s
	}
	s.Name, s.IsMap, s.Concatenation = r.name(), true, true
	s.KeyType, s.DataType = nftables.MustConcatSetType(f.Address, nftables.TypeMark), f.Address
	return s
}

// datagrams has no size: the kernel's own limit, 65535, counts then, and memory is taken as needed. With one it is taken at once,
// a megabyte for each container.
func datagrams(family int) *nftables.Set {
	f := nft.Families()[family]
	return &nftables.Set{Table: table(), ID: uint32(1 + family), Name: "datagrams" + f.Digit, KeyType: f.Address, Dynamic: true}
}

// change gathers elements to take away and to add.
type change struct {
	gone, come map[rung][]nftables.SetElement
}

func newChange() change {
	return change{make(map[rung][]nftables.SetElement), make(map[rung][]nftables.SetElement)}
}

func (c change) add(vip netip.Addr, table []netip.Addr)    { gather(c.come, vip, table) }
func (c change) remove(vip netip.Addr, table []netip.Addr) { gather(c.gone, vip, table) }

func gather(to map[rung][]nftables.SetElement, vip netip.Addr, table []netip.Addr) {
	r := rungOf(vip, len(table))
	if len(table) == 0 {
		to[r] = append(to[r], nftables.SetElement{Key: vip.AsSlice()})
	}
	for i, backend := range table {
		to[r] = append(to[r], element(vip, i, backend))
	}
}

func element(vip netip.Addr, slot int, backend netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: append(vip.AsSlice(), nft.Slot(slot)...), Val: backend.AsSlice()}
}

// move replaces one table by another, which the caller has found to differ.
func (c change) move(vip netip.Addr, from, to []netip.Addr) {
	if len(from) != len(to) {
		c.remove(vip, from)
		c.add(vip, to)
		return
	}
	r := rungOf(vip, len(to))
	for i := range to {
		if from[i] != to[i] {
			c.gone[r] = append(c.gone[r], element(vip, i, from[i]))
			c.come[r] = append(c.come[r], element(vip, i, to[i]))
		}
	}
}

// rewrite replaces the table by one that holds what is to come; rungs is told what it has.
func (c change) rewrite(conn *nftables.Conn, rungs map[rung]bool) error {
	t := table()
	if err := nft.Renew(conn, t); err != nil {
		return err
	}
	refuse := conn.AddChain(&nftables.Chain{Table: t, Name: "refuse"})
	conn.AddChain(vipChain())
	rule := func(ch *nftables.Chain, parts ...any) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: nft.Join(parts...)})
	}
	for i, name := range []string{"out", "again"} {
		hook := conn.AddChain(&nftables.Chain{
			Table: t, Name: name, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput,
			Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + nftables.ChainPriority(i)),
		})
		rule(hook, &expr.Verdict{Kind: expr.VerdictJump, Chain: vipChain().Name})
	}
	rule(refuse, nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	rule(refuse, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	for i, f := range nft.Families() {
		none := rung{i, 0}.set()
		for _, s := range []*nftables.Set{none, datagrams(i)} {
			if err := conn.AddSet(s, nil); err != nil {
				return err
			}
		}
		rule(vipChain(), f.Is(), f.LoadDst(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: none.Name, SetID: none.ID},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name})
		rungs[rung{i, 0}] = true
	}
	accepted, made := directions()
	for _, d := range []counted{accepted, made} {
		if err := d.create(conn); err != nil {
			return err
		}
	}
	return c.write(conn, rungs)
}

// write queues and commits the change, with maps and rules for sizes that come into use.
func (c change) write(conn *nftables.Conn, rungs map[rung]bool) error {
	var fresh []rung
	for _, r := range slices.SortedFunc(maps.Keys(c.come), func(a, b rung) int { return a.size - b.size }) {
		if rungs[r] {
			continue
		}
		fresh = append(fresh, r)
		if err := r.create(conn); err != nil {
			return err
		}
	}
	for r, elements := range c.gone {
		if err := nft.DeleteElements(conn, r.set(), elements); err != nil {
			return err
		}
	}
	for r, elements := range c.come {
		if err := nft.AddElements(conn, r.set(), elements); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with nat, numgen and inet): %w", tableName, err)
	}
	for _, r := range fresh {
		rungs[r] = true
	}
	return nil
}

func (r rung) create(conn *nftables.Conn) error {
	f, s, d := nft.Families()[r.family], r.set(), datagrams(r.family)
	if err := conn.AddSet(s, nil); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	slot := nft.Reg32(f.Words())
	add := func(parts ...any) {
		conn.AddRule(&nftables.Rule{Table: s.Table, Chain: vipChain(), Exprs: nft.Join(parts...)})
	}
	// Slot 0 tells that the service is in this map.
	add(f.Is(), nft.Protocol(expr.CmpOpNeq, unix.IPPROTO_TCP), f.LoadDst(nft.Reg), &expr.Immediate{Register: slot, Data: nft.Slot(0)},
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: unix.NFT_REG_4, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.Dynset{SrcRegKey: nft.Reg, SetName: d.Name, SetID: d.ID, Operation: unix.NFT_DYNSET_OP_ADD})
	add(f.Is(), f.LoadDst(nft.Reg), nft.Random(slot, r.size),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, f.DNAT(false))
	return nil
}
