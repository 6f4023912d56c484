//go:build linux

package mesh

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/nft"
)

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
	for _, name := range []string{kindHere.chain(), kindAny.chain()} {
		c.AddChain(&nftables.Chain{Name: name, Table: t})
	}
	nft.WriteChains(c, t, r.chains())
}

func base(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nft.Chain {
	return &nft.Chain{Name: name, Type: typ, Hook: hook, Prio: prio}
}

func (r *rules) chains() []*nft.Chain {
	peers := fixedSets()["peers"]
	var ways []*nft.Chain
	for i, again := range []string{"", "-again"} {
		at := nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + nftables.ChainPriority(i))
		in := base("in"+again, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, at)
		out := base("out"+again, nftables.ChainTypeNAT, nftables.ChainHookOutput, at)
		// The first packet of a connection alone comes here.
		in.Add(r.fromPeers(), loadPeer(),
			&expr.Lookup{SourceRegister: nft.Reg, DestRegister: nft.Reg, IsDestRegSet: true, SetName: peers.Name, SetID: peers.ID},
			&expr.Ct{Key: expr.CtKeyMARK, Register: nft.Reg, SourceRegister: true})
		in.Add(r.fromPeers(), jump("here"))
		in.Add(jump("front"))
		out.Add(jump("front"))
		ways = append(ways, in, out)
	}

	refuse := &nft.Chain{Name: "refuse"}
	refuse.Add(nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	refuse.Add(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	return append(ways, refuse, r.mark(), r.back(), r.leave(), r.closed())
}

func jump(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }

func (r *rules) fromPeers() []expr.Any {
	return nft.Device(expr.MetaKeyIIF, expr.CmpOpEq, r.index)
}

// toOthers ends a chain for what does not leave by the device. It comes first: most packets of the host are none of ours.
func (r *rules) toOthers() []expr.Any {
	return nft.Join(nft.Device(expr.MetaKeyOIF, expr.CmpOpNeq, r.index), nft.Return())
}

// loadPeer puts the source's hardware address into the register.
func loadPeer() expr.Any {
	return &expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
}

func number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// mark: the way back is that by which the connection came, of which the chain `in` has taken note. No peer can name the host's
// loopback.
func (r *rules) mark() *nft.Chain {
	ch := base("mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	load := &expr.Ct{Key: expr.CtKeyMARK, Register: nft.Reg}
	ch.Add(load, masked(), nft.Answering(), load, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
	ipv4 := nft.Families()[0]
	ch.Add(r.fromPeers(), ipv4.Is(), ipv4.DstIn(expr.CmpOpEq, ipv4.Loopback()), nft.Drop())
	return ch
}

// back: containers of this host are masqueraded by the bridge they are on.
func (r *rules) back() *nft.Chain {
	ch := base("back", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	ch.Add(r.toOthers())
	for _, f := range nft.Families() {
		ch.Add(f.Is(), f.SrcIn(expr.CmpOpEq, f.Loopback()), &expr.Masq{})
		turned := fixedSets()["turned"+f.Digit]
		ch.Add(f.Is(), f.LoadSrc(nft.Reg), f.LoadDst(nft.Reg32(f.Words())),
			&expr.Lookup{SourceRegister: nft.Reg, SetName: turned.Name, SetID: turned.ID}, &expr.Masq{})
	}
	return ch
}

// leave: both ends learn from the opening packets what fits; the kernel only ever lowers it.
func (r *rules) leave() *nft.Chain {
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
	ch.Add(r.toOthers())
	for i, f := range nft.Families() {
		size := binary.BigEndian.AppendUint16(nil, uint16(max(r.mtu-headers-i*longer, smallest)))
		ch.Add(f.Is(), nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP),
			&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
			&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 1, Mask: []byte{syn}, Xor: []byte{0}}, nft.NotEqual([]byte{0}),
			&expr.Immediate{Register: nft.Reg, Data: size},
			&expr.Exthdr{SourceRegister: nft.Reg, Type: optionMSS, Offset: sizeOffset, Len: 2, Op: expr.ExthdrOpTcpopt})
	}
	// The mark has done its work, and would lead the VXLAN packet back into the device.
	ch.Add(marked(), &expr.Immediate{Register: nft.Reg, Data: number(0)}, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
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
func (r *rules) closed() *nft.Chain {
	ch := base("closed", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	refuse := &expr.Verdict{Kind: expr.VerdictGoto, Chain: "refuse"}
	// Most of what comes in: an answer is for a client of this host, which has the port, and so have the overlay's frames.
	ch.Add(nft.Answering(), nft.Return())
	// What a container or a peer sends to the host by its address on the mesh, and to no published
	// port, is not the mesh's: the cluster's own ports are there too. By ICMP hosts look for each
	// other, and tell of packets that do not fit.
	ch.Add(r.fromPeers(), nft.Protocol(expr.CmpOpNeq, unix.IPPROTO_ICMP), nft.Protocol(expr.CmpOpNeq, unix.IPPROTO_ICMPV6), refuse)
	ch.Add(nft.DatagramTo(uint16(r.port)), nft.Return())
	held := fixedSets()["held"]
	ch.Add(loadPort(0), &expr.Lookup{SourceRegister: nft.Reg, SetName: held.Name, SetID: held.ID}, refuse)
	for _, f := range nft.Families() {
		held := fixedSets()["held"+f.Digit]
		ch.Add(f.Is(), f.LoadDst(nft.Reg), loadPort(f.Words()), &expr.Lookup{SourceRegister: nft.Reg, SetName: held.Name, SetID: held.ID}, refuse)
	}
	return ch
}
