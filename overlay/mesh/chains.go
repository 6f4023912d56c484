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

// writeSkeleton queues a new table with the chains, rules and sets that do not depend on the
// content.
func (r *rules) writeSkeleton(c *nftables.Conn) {
	t := table()
	// Deleting a table that does not exist would fail, so add it first.
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	for _, s := range fixedSets() {
		// AddSet cannot fail for these sets: they are constant and have no elements.
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
		// A nat chain sees only the first packet of a connection.
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
	return append(ways, refuse, r.restoreMark(), r.masquerade(), r.toPeers(), r.hostInput())
}

func jump(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }

func (r *rules) fromPeers() []expr.Any {
	return nft.Device(expr.MetaKeyIIF, expr.CmpOpEq, r.index)
}

// onlyToPeers is a rule that ends the chain for every packet which does not leave through the
// device of the mesh. It must be the first rule of its chain, because most packets of the host do
// not concern the mesh.
func (r *rules) onlyToPeers() []expr.Any {
	return nft.Join(nft.Device(expr.MetaKeyOIF, expr.CmpOpNeq, r.index), nft.Return())
}

// loadPeer puts the hardware address of the sender into the register.
func loadPeer() expr.Any {
	return &expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}
}

// native32 encodes a register value in the byte order of the host.
func native32(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// restoreMark returns the chain that sends answers back through the host from which the connection
// came: the chain `in` has stored that host in the mark of the connection. The chain also drops
// packets from peers to 127.0.0.0/8. The kernel itself drops packets to [::1] that come from
// outside.
func (r *rules) restoreMark() *nft.Chain {
	ch := base("restore-mark", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	load := &expr.Ct{Key: expr.CtKeyMARK, Register: nft.Reg}
	ch.Add(load, masked(), nft.Answering(), load, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
	ipv4 := nft.Families()[0]
	ch.Add(r.fromPeers(), ipv4.Is(), ipv4.DstIn(expr.CmpOpEq, ipv4.Loopback()), nft.Drop())
	return ch
}

// masquerade returns the chain that masquerades some connections. It does not handle connections
// from containers of this host, because the rules of their bridge masquerade them.
func (r *rules) masquerade() *nft.Chain {
	ch := base("masq", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	ch.Add(r.onlyToPeers())
	for _, f := range nft.Families() {
		ch.Add(f.Is(), f.SrcIn(expr.CmpOpEq, f.Loopback()), &expr.Masq{})
		hairpin := fixedSets()["hairpin"+f.Digit]
		ch.Add(f.Is(), f.LoadSrc(nft.Reg), f.LoadDst(nft.Reg32(f.Words())),
			&expr.Lookup{SourceRegister: nft.Reg, SetName: hairpin.Name, SetID: hairpin.ID}, &expr.Masq{})
	}
	return ch
}

// toPeers returns the chain for packets that leave to a peer. The chain has two jobs. It writes
// the TCP segment size that fits the mesh into the SYN packets of client and backend; the kernel
// changes a packet only if its size is larger. It also clears the mark that restore-mark has set.
func (r *rules) toPeers() *nft.Chain {
	const (
		tcpFlags   = 13
		syn        = 2
		optionMSS  = 2
		headers    = 40 // IPv4 and TCP
		longer     = 20 // the IPv6 header is longer by this
		smallest   = 536
		sizeOffset = 2
	)
	ch := base("to-peers", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, nftables.ChainPriorityMangle)
	ch.Add(r.onlyToPeers())
	for i, f := range nft.Families() {
		size := binary.BigEndian.AppendUint16(nil, uint16(max(r.mtu-headers-i*longer, smallest)))
		ch.Add(f.Is(), nft.Protocol(expr.CmpOpEq, unix.IPPROTO_TCP),
			&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Offset: tcpFlags, Len: 1},
			&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 1, Mask: []byte{syn}, Xor: []byte{0}}, nft.NotEqual([]byte{0}),
			&expr.Immediate{Register: nft.Reg, Data: size},
			&expr.Exthdr{SourceRegister: nft.Reg, Type: optionMSS, Offset: sizeOffset, Len: 2, Op: expr.ExthdrOpTcpopt})
	}
	// The packet is routed already. VXLAN would copy the mark to the outer packet, which would be
	// routed back into the device.
	ch.Add(marked(), &expr.Immediate{Register: nft.Reg, Data: native32(0)}, &expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg, SourceRegister: true})
	return ch
}

// marked matches packets with a mark of the mesh.
func marked() []expr.Any {
	return nft.Join(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, masked())
}

// masked matches if the register contains a mark of the mesh.
func masked() []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 4, Mask: native32(markMask), Xor: native32(0)},
		nft.Equal(native32(markOurs)),
	}
}

// hostInput returns the chain that rejects connections to ports without a backend. Without this
// chain the sockets that hold the ports would accept such connections and never answer.
func (r *rules) hostInput() *nft.Chain {
	ch := base("host-input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	refuse := &expr.Verdict{Kind: expr.VerdictGoto, Chain: "refuse"}
	// Most incoming packets are answers to clients on this host or VXLAN packets. Neither can be
	// for a published port, so they leave the chain early.
	ch.Add(nft.Answering(), nft.Return())
	// A packet from the mesh that was not redirected is for the host itself. Containers and peers
	// must not reach the cluster's own ports this way. ICMP must pass: hosts use it to find
	// neighbours and to report packets that are too big.
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
