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

// tableName is the name of the nftables table in each namespace. Each map and set with the digit 4
// in its name exists also with the digit 6, for IPv6. There is one map slotsF-N for each number N
// of slots that a service has. For example, slots4-10 is the map of the services with ten slots:
//
//	map slots4-10:  vip . 0-9 -> backend   services with ten slots
//	set none4:      vip                    services without a backend
//	set datagrams4: vip                    addresses to which packets other than TCP were sent; the rules fill it
//	sets accepted and made: interface      number of connections that began there; the rules fill them (count.go)
//	chains out and again (output, nat): run one after the other, and both jump to `vip`
//	chain vip: sends packets to an address in `none` to `refuse`; for each map, looks up `daddr . random` and
//	      redirects to the backend
//	chain refuse: answers TCP with a reset, and other protocols with ICMP port unreachable
//
// A service is in one map at a time. It moves to a map of another size in one transaction. The
// lookups of one packet are not atomic: if the kernel commits a transaction between two lookups,
// both may miss the service. So each packet passes `vip` twice, from `out` and from `again`. The
// number of rules does not depend on the number of services.
const tableName = "swarm-vip"

// sizeClass identifies the map of the services that have the same family and number of slots. Size
// 0 stands for the set `none`, because a service without backends has no slots.
type sizeClass struct {
	family int // index of nft.Families
	size   int // number of slots
}

func (sc sizeClass) name() string {
	return fmt.Sprintf("slots%s-%d", nft.Families()[sc.family].Digit, sc.size)
}

// sizeClassOf returns the size class of a virtual address with a number of slots.
func sizeClassOf(vip netip.Addr, size int) sizeClass {
	if vip.Is4() {
		return sizeClass{0, size}
	}
	return sizeClass{1, size}
}

func table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
}

func vipChain() *nftables.Chain { return &nftables.Chain{Table: table(), Name: "vip"} }

// set describes the map of the size class, or the set `none` for size 0.
func (sc sizeClass) set() *nftables.Set {
	f := nft.Families()[sc.family]
	// A rule refers to a set of the same batch by the ID of the set.
	s := &nftables.Set{Table: table(), ID: uint32(100 + 2*sc.size + sc.family)}
	if sc.size == 0 {
		s.Name, s.KeyType = "none"+f.Digit, f.Address
		return s
	}
	s.Name, s.IsMap, s.Concatenation = sc.name(), true, true
	s.KeyType, s.DataType = nftables.MustConcatSetType(f.Address, nftables.TypeMark), f.Address
	return s
}

// datagrams describes the set datagrams. It has no size, so that the kernel's own limit of 65535
// applies and memory is allocated as needed. With a size the kernel allocates all memory at once: a
// megabyte for each container.
func datagrams(family int) *nftables.Set {
	f := nft.Families()[family]
	return &nftables.Set{Table: table(), ID: uint32(1 + family), Name: "datagrams" + f.Digit, KeyType: f.Address, Dynamic: true}
}

// change collects the elements to remove and to add.
type change struct {
	removed, added map[sizeClass][]nftables.SetElement
}

func newChange() change {
	return change{make(map[sizeClass][]nftables.SetElement), make(map[sizeClass][]nftables.SetElement)}
}

func (c change) add(vip netip.Addr, slots []netip.Addr)    { gather(c.added, vip, slots) }
func (c change) remove(vip netip.Addr, slots []netip.Addr) { gather(c.removed, vip, slots) }

// gather appends the elements of a virtual address: one for each slot, or one in the set `none` if
// the address has no slots.
func gather(to map[sizeClass][]nftables.SetElement, vip netip.Addr, slots []netip.Addr) {
	sc := sizeClassOf(vip, len(slots))
	if len(slots) == 0 {
		to[sc] = append(to[sc], nftables.SetElement{Key: vip.AsSlice()})
	}
	for i, backend := range slots {
		to[sc] = append(to[sc], element(vip, i, backend))
	}
}

func element(vip netip.Addr, slot int, backend netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: append(vip.AsSlice(), nft.Slot(slot)...), Val: backend.AsSlice()}
}

// move replaces the slots of an address. The caller has checked that they differ.
func (c change) move(vip netip.Addr, from, to []netip.Addr) {
	if len(from) != len(to) {
		c.remove(vip, from)
		c.add(vip, to)
		return
	}
	sc := sizeClassOf(vip, len(to))
	for i := range to {
		if from[i] != to[i] {
			c.removed[sc] = append(c.removed[sc], element(vip, i, from[i]))
			c.added[sc] = append(c.added[sc], element(vip, i, to[i]))
		}
	}
}

// replaceTable replaces the nftables table by a new one with the added elements. It records the new
// maps in sizeClasses.
func (c change) replaceTable(conn *nftables.Conn, sizeClasses map[sizeClass]bool) error {
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
		none := sizeClass{i, 0}.set()
		for _, s := range []*nftables.Set{none, datagrams(i)} {
			if err := conn.AddSet(s, nil); err != nil {
				return err
			}
		}
		rule(vipChain(), f.Is(), f.LoadDst(nft.Reg), &expr.Lookup{SourceRegister: nft.Reg, SetName: none.Name, SetID: none.ID},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name})
		sizeClasses[sizeClass{i, 0}] = true
	}
	accepted, made := directions()
	for _, d := range []connectionCounter{accepted, made} {
		if err := d.create(conn); err != nil {
			return err
		}
	}
	return c.write(conn, sizeClasses)
}

// write commits the change in one transaction. It also creates the maps and rules of new size
// classes.
func (c change) write(conn *nftables.Conn, sizeClasses map[sizeClass]bool) error {
	var fresh []sizeClass
	for _, sc := range slices.SortedFunc(maps.Keys(c.added), func(a, b sizeClass) int { return a.size - b.size }) {
		if sizeClasses[sc] {
			continue
		}
		fresh = append(fresh, sc)
		if err := sc.create(conn); err != nil {
			return err
		}
	}
	for sc, elements := range c.removed {
		if err := nft.DeleteElements(conn, sc.set(), elements); err != nil {
			return err
		}
	}
	for sc, elements := range c.added {
		if err := nft.AddElements(conn, sc.set(), elements); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with nat, numgen and inet): %w", tableName, err)
	}
	for _, sc := range fresh {
		sizeClasses[sc] = true
	}
	return nil
}

// create queues the map of the size class, and the rules that look it up.
func (sc sizeClass) create(conn *nftables.Conn) error {
	f, s, d := nft.Families()[sc.family], sc.set(), datagrams(sc.family)
	if err := conn.AddSet(s, nil); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	slot := nft.Reg32(f.Words())
	add := func(parts ...any) {
		conn.AddRule(&nftables.Rule{Table: s.Table, Chain: vipChain(), Exprs: nft.Join(parts...)})
	}
	// Every service in this map has a slot 0, so one lookup tells whether the address is in it.
	add(f.Is(), nft.Protocol(expr.CmpOpNeq, unix.IPPROTO_TCP), f.LoadDst(nft.Reg), &expr.Immediate{Register: slot, Data: nft.Slot(0)},
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: unix.NFT_REG_4, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.Dynset{SrcRegKey: nft.Reg, SetName: d.Name, SetID: d.ID, Operation: unix.NFT_DYNSET_OP_ADD})
	add(f.Is(), f.LoadDst(nft.Reg), nft.Random(slot, sc.size),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}, f.DNAT(false))
	return nil
}
