//go:build linux

package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Registers: the first 16-byte one, and the 4-byte ones that lie in it.
const (
	reg1       = 1
	reg1Second = unix.NFT_REG32_01
	reg1Third  = unix.NFT_REG32_02
)

// tcIPDst and ipSrc are offsets in an IPv4 header, portDst in a TCP, UDP or SCTP one.
const (
	ipSrc   = 12
	ipDst   = 16
	portDst = 2
)

// ctStatusDNAT is IPS_DST_NAT: the connection's destination was rewritten.
const ctStatusDNAT = 1 << 5

// rules is the nftables side. A table of ours:
//
//	map any:  protocol . port           -> address . port   ports on all of the host's addresses
//	map one:  address . protocol . port -> address . port   ports on one of them
//	guard (prerouting, raw): who is not on the bridge cannot name an address in it;
//	      who is on it cannot name 127.0.0.0/8
//	in (prerouting), out (output), nat: look the destination up in `one`, then in
//	      `any` if it is an address of the host
//	back (postrouting), nat: masquerade what leaves the bridge for elsewhere, and
//	      published ports used by the host's loopback or from the bridge itself
//
// Ports come and go as elements: the rules are the same for any number of them.
type rules struct {
	bridge string
	subnet netip.Prefix
	log    *slog.Logger
	// lasting is kept open: closing a socket waits until the kernel has destroyed
	// what was deleted through any (10 ms), and a dial costs as much as a change.
	lasting *nftables.Conn
}

func (r *rules) tableName() string {
	if r.bridge == "swarm0" {
		return "swarm-bridge"
	}
	return "swarm-bridge-" + r.bridge
}

func (r *rules) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: r.tableName()}
}

func (r *rules) anyMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, ID: 1, Name: "any", IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

func (r *rules) oneMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, ID: 2, Name: "one", IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

// with runs fn on the connection. After an error nobody knows which answers are
// still to come on it: the next call gets another.
func (r *rules) with(fn func(*nftables.Conn) error) error {
	if r.lasting == nil {
		// The send buffer holds a batch of thousands of elements.
		c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			return c.SetWriteBuffer(8 << 20)
		}))
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		r.lasting = c
	}
	if err := fn(r.lasting); err != nil {
		return errors.Join(err, r.hangUp())
	}
	return nil
}

func (r *rules) hangUp() error {
	if r.lasting == nil {
		return nil
	}
	err := r.lasting.CloseLasting()
	r.lasting = nil
	return err
}

// sync replaces the whole table in one transaction.
func (r *rules) sync(published map[netip.Addr][]Port) error {
	return r.with(func(c *nftables.Conn) error { return r.replace(c, published) })
}

func (r *rules) replace(c *nftables.Conn, published map[netip.Addr][]Port) error {
	t := r.table()
	// Adding first makes the deletion valid when there was no table.
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	var anyElems, oneElems []nftables.SetElement
	for addr, ports := range published {
		a, o := elements(addr, ports)
		anyElems, oneElems = append(anyElems, a...), append(oneElems, o...)
	}
	if err := c.AddSet(r.anyMap(t), anyElems); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := c.AddSet(r.oneMap(t), oneElems); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r.addChains(c, t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s (the kernel needs nf_tables with nat and fib): %w", t.Name, err)
	}
	return nil
}

// publish adds a task's ports; unpublish takes them away.
func (r *rules) publish(addr netip.Addr, ports []Port) error {
	return r.change(addr, ports, (*nftables.Conn).SetAddElements)
}

func (r *rules) unpublish(addr netip.Addr, ports []Port) error {
	return r.change(addr, ports, (*nftables.Conn).SetDeleteElements)
}

func (r *rules) change(addr netip.Addr, ports []Port, apply func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	t := r.table()
	anyElems, oneElems := elements(addr, ports)
	err := r.with(func(c *nftables.Conn) error {
		for set, elems := range map[*nftables.Set][]nftables.SetElement{r.anyMap(t): anyElems, r.oneMap(t): oneElems} {
			if len(elems) == 0 {
				continue
			}
			if err := apply(c, set, elems); err != nil {
				return fmt.Errorf("nftables: %w", err)
			}
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("change published ports %v: %w", ports, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return forgetUDP(ports)
}

// elements spells ports out for the two maps. Each field of a key or value fills
// a 4-byte register.
func elements(addr netip.Addr, ports []Port) (anyElems, oneElems []nftables.SetElement) {
	for _, p := range ports {
		key := append(pad([]byte{p.number()}), pad(be16(p.Published))...)
		e := nftables.SetElement{Key: key, Val: append(addr.AsSlice(), pad(be16(p.Target))...)}
		if !p.HostIP.IsValid() {
			anyElems = append(anyElems, e)
			continue
		}
		e.Key = append(p.HostIP.AsSlice(), key...)
		oneElems = append(oneElems, e)
	}
	return anyElems, oneElems
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func pad(b []byte) []byte { return append(b, make([]byte, 4-len(b))...) }

func (r *rules) addChains(c *nftables.Conn, t *nftables.Table) {
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, bodies ...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: prio})
		for _, body := range bodies {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: body})
		}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		join(iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.bridge), inside(ipDst, expr.CmpOpEq, loopback), drop),
		join(iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, r.bridge), iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, "lo"),
			inside(ipDst, expr.CmpOpEq, r.subnet), drop),
	)
	for name, hook := range map[string]*nftables.ChainHook{"in": nftables.ChainHookPrerouting, "out": nftables.ChainHookOutput} {
		chain(name, nftables.ChainTypeNAT, hook, nftables.ChainPriorityNATDest, lookupOne(), lookupAny())
	}
	masquerade := &expr.Masq{}
	chain("back", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		join(inside(ipSrc, expr.CmpOpEq, r.subnet), iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.bridge), masquerade),
		join(iface(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.bridge), inside(ipSrc, expr.CmpOpEq, loopback), masquerade),
		join(iface(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.bridge), inside(ipSrc, expr.CmpOpEq, r.subnet), redirected(), masquerade),
	)
}

// lookupOne: dnat to (ip daddr . meta l4proto . th dport) in map one.
func lookupOne() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: ipDst, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1Second},
		&expr.Payload{DestRegister: reg1Third, Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: "one", SetID: 2},
		dnat(),
	}
}

// lookupAny: fib daddr type local, dnat to (meta l4proto . th dport) in map any.
func lookupAny() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Payload{DestRegister: reg1Second, Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: "any", SetID: 1},
		dnat(),
	}
}

func dnat() expr.Any {
	return &expr.NAT{
		Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, Specified: true,
		RegAddrMin: reg1, RegAddrMax: reg1, RegProtoMin: reg1Second, RegProtoMax: reg1Second,
	}
}

func iface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: reg1}, &expr.Cmp{Op: op, Register: reg1, Data: padded}}
}

// inside compares the address at offset with a range.
func inside(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	}
}

func redirected() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctStatusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// join puts a rule together from single expressions and lists of them.
func join(parts ...any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case []expr.Any:
			out = append(out, p...)
		case expr.Any:
			out = append(out, p)
		}
	}
	return out
}
