//go:build linux

package mesh

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

// chain with its rules; without a hook it is one that others jump to.
type chain struct {
	name  string
	typ   nftables.ChainType
	hook  *nftables.ChainHook
	prio  *nftables.ChainPriority
	rules [][]expr.Any
}

func (ch *chain) add(parts ...any) { ch.rules = append(ch.rules, nft.Join(parts...)) }

// frame queues the table with all that does not depend on its content.
func (r *rules) frame(c *nftables.Conn) {
	t := table()
	// Adding first makes the deletion valid when there was no table.
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	for _, s := range fixedSets() {
		// Without elements there is nothing to go wrong.
		_ = c.AddSet(s, nil)
	}
	all := r.chains()
	for _, name := range []string{kindHere.chain(), kindAny.chain()} {
		c.AddChain(&nftables.Chain{Name: name, Table: t})
	}
	// Chains first: rules jump to them.
	for _, ch := range all {
		c.AddChain(&nftables.Chain{Name: ch.name, Table: t, Type: ch.typ, Hooknum: ch.hook, Priority: ch.prio})
	}
	for _, ch := range all {
		for _, rule := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: ch.name, Table: t}, Exprs: rule})
		}
	}
}

func base(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *chain {
	return &chain{name: name, typ: typ, hook: hook, prio: prio}
}

func (r *rules) chains() []*chain {
	var ways []*chain
	for i, again := range []string{"", "-again"} {
		at := nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + nftables.ChainPriority(i))
		in := base("in"+again, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, at)
		out := base("out"+again, nftables.ChainTypeNAT, nftables.ChainHookOutput, at)
		in.add(r.fromPeers(), jump("here"))
		in.add(jump("front"))
		out.add(jump("front"))
		ways = append(ways, in, out)
	}

	refuse := &chain{name: "refuse"}
	refuse.add(nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	refuse.add(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	return append(ways, refuse, r.mark(), r.back(), r.leave(), r.closed())
}

func jump(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }

func (r *rules) fromPeers() []expr.Any {
	return nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.device)
}

// toOthers ends a chain for what does not leave by the device. It comes first: the name is what costs most to compare, and is compared once.
func (r *rules) toOthers() []expr.Any {
	return nft.Join(nft.Interface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.device), &expr.Verdict{Kind: expr.VerdictReturn})
}

// loadPeer puts the source's hardware address into the register.
func loadPeer() expr.Any {
	return &expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
}

func number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// mark: the way back is decided by the way that a connection came. No peer can name the host's loopback.
func (r *rules) mark() *chain {
	ch := base("mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	peers := fixedSets()["peers"]
	load := &expr.Ct{Key: expr.CtKeyMARK, Register: nft.Reg}
	ch.add(load, masked(), nft.Answering(), load, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
	ch.add(nft.Interface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, r.device), &expr.Verdict{Kind: expr.VerdictReturn})
	ipv4 := nft.Families()[0]
	ch.add(ipv4.Is(), ipv4.DstIn(expr.CmpOpEq, netip.MustParsePrefix("127.0.0.0/8")), &expr.Verdict{Kind: expr.VerdictDrop})
	ch.add(nft.Asking(), load, nft.Equal(number(0)),
		loadPeer(),
		&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: peers.Name, SetID: peers.ID},
		&expr.Ct{Key: expr.CtKeyMARK, Register: nft.Reg, SourceRegister: true})
	return ch
}

// back: containers of this host are masqueraded by the bridge they are on.
func (r *rules) back() *chain {
	ch := base("back", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	ch.add(r.toOthers())
	for i, f := range nft.Families() {
		loopback := netip.MustParsePrefix([]string{"127.0.0.0/8", "::1/128"}[i])
		ch.add(f.Is(), f.SrcIn(expr.CmpOpEq, loopback), &expr.Masq{})
		turned := fixedSets()["turned"+f.Digit]
		ch.add(f.Is(), f.LoadSrc(nft.Reg), f.LoadDst(nft.Reg32(f.Words())),
			&expr.Lookup{SourceRegister: nft.Reg, SetName: turned.Name, SetID: turned.ID}, &expr.Masq{})
	}
	return ch
}

// leave: both ends learn from the opening packets what fits; the kernel only ever lowers it.
func (r *rules) leave() *chain {
	const (
		tcpFlags   = 13
		syn        = 2
		optionMSS  = 2
		headers    = 40 // IPv4 and TCP
		longer     = 20 // what IPv6's is longer by
		smallest   = 536
		sizeOffset = 2
	)
	ch := base("leave", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, nftables.ChainPriorityMangle)
	ch.add(r.toOthers())
	for i, f := range nft.Families() {
		size := binary.BigEndian.AppendUint16(nil, uint16(max(r.mtu-headers-i*longer, smallest)))
		ch.add(f.Is(), nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP),
			&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
			&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 1, Mask: []byte{syn}, Xor: []byte{0}}, nft.NotEqual([]byte{0}),
			&expr.Immediate{Register: nft.Reg, Data: size},
			&expr.Exthdr{SourceRegister: nft.Reg, Type: optionMSS, Offset: sizeOffset, Len: 2, Op: expr.ExthdrOpTcpopt})
	}
	// The mark has done its work, and would lead the VXLAN packet back into the device.
	ch.add(marked(), &expr.Immediate{Register: nft.Reg, Data: number(0)}, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
	return ch
}

// marked matches packets with a mark of ours.
func marked() []expr.Any {
	return nft.Join(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, masked())
}

func masked() []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 4, Mask: number(markMask), Xor: number(0)},
		nft.Equal(number(markOurs)),
	}
}

// closed: the sockets that hold the ports would accept, and never answer.
func (r *rules) closed() *chain {
	ch := base("closed", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	refuse := &expr.Verdict{Kind: expr.VerdictGoto, Chain: "refuse"}
	// Most of what comes in: an answer is for a client of this host, which has the port, and so have the overlay's frames.
	ch.add(nft.Answering(), &expr.Verdict{Kind: expr.VerdictReturn})
	ch.add(nft.Protocol(expr.CmpOpEq, unix.IPPROTO_UDP),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		nft.Equal(binary.BigEndian.AppendUint16(nil, uint16(r.port))), &expr.Verdict{Kind: expr.VerdictReturn})
	held := fixedSets()["held"]
	ch.add(loadPort(0), &expr.Lookup{SourceRegister: nft.Reg, SetName: held.Name, SetID: held.ID}, refuse)
	for _, f := range nft.Families() {
		held := fixedSets()["held"+f.Digit]
		ch.add(f.Is(), f.LoadDst(nft.Reg), loadPort(f.Words()), &expr.Lookup{SourceRegister: nft.Reg, SetName: held.Name, SetID: held.ID}, refuse)
	}
	return ch
}
