//go:build linux

package bridge

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/nft"
)

// frames is the table of what the bridge itself passes on. The flag `isolated` of ports would not do: it lets tasks on the
// bridge that are not apart through, and stops what goes to a published port where br_netfilter is on (as beside dockerd):
// there the bridge itself passes on what was redirected.
func (r *rules) frames() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: r.tableName()}
}

func (r *rules) frameChains() []*nft.Chain {
	// After br_netfilter, which shows what it redirects to the host's chain `fence`.
	last := nftables.ChainPriorityRef(200) // NF_BR_PRI_FILTER_OTHER
	apart := &nft.Chain{Name: "apart", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Prio: last}
	door := &nft.Chain{Name: "door", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Prio: last}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		apart.Add(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, nft.NotEqual(redirected()),
			&expr.Meta{Key: key, Register: nft.Reg}, nft.Equal([]byte(apartPrefix)), nft.Drop())
	}
	for _, prefix := range []string{cablePrefix, apartPrefix} {
		// 01:80:c2:00:00:00-0f, see judgeAll too: the host takes these by the cable itself, where no rule looks for tasks.
		door.Add(&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: etherDst, Len: 6},
			&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 6, Mask: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, Xor: make([]byte, 6)},
			nft.Equal([]byte{0x01, 0x80, 0xc2, 0, 0, 0}), byCable(prefix), nft.Drop())
	}
	for _, f := range r.families() {
		subnet, gateway, mates := r.rangeOf(f), r.in(f, hostnet.Nth(r.subnet, 1)), r.sets(f)[mateSet]
		inside := nft.Join(etherType(f.EtherType()), f.DstIn(expr.CmpOpEq, subnet), f.LoadDst(nft.Reg), nft.NotEqual(gateway.AsSlice()))
		door.Add(inside, byCable(apartPrefix), nft.Drop())
		door.Add(inside, &expr.Lookup{SourceRegister: nft.Reg, SetName: mates.Name, SetID: mates.ID, Invert: true}, byCable(cablePrefix), nft.Drop())
	}
	return append(r.senderChains(), apart, door)
}

// senderChains tie a cable to what its task is. They come before br_netfilter too.
func (r *rules) senderChains() []*nft.Chain {
	first := nftables.ChainPriorityRef(-200) // NF_BR_PRI_FILTER_BRIDGED
	source := &nft.Chain{Name: "source", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Prio: first}
	for _, prefix := range []string{cablePrefix, apartPrefix} {
		source.Add(byCable(prefix), &expr.Verdict{Kind: expr.VerdictGoto, Chain: "sender"})
	}
	sender := &nft.Chain{Name: "sender"}
	ipv4, ipv6 := nft.Families()[0], nft.Families()[1]
	ether := payload(expr.PayloadBaseLLHeader, etherSrc, 6)
	sender.Add(etherType(ipv4.EtherType()), r.owned(ipv4, ether, payload(expr.PayloadBaseNetworkHeader, ipv4.Src, 4)), nft.Return())
	arpAddress := payload(expr.PayloadBaseNetworkHeader, arpSenderIP, 4)
	sender.Add(etherType(unix.ETH_P_ARP), r.owned(ipv4, ether, arpAddress),
		r.owned(ipv4, payload(expr.PayloadBaseNetworkHeader, arpSenderMAC, 6), arpAddress), nft.Return())
	for _, kind := range []byte{routerAdvertisement, redirect} {
		sender.Add(ofIPv6(kind), nft.Drop())
	}
	const target = 8
	ownTarget := r.owned(ipv6, ether, payload(expr.PayloadBaseTransportHeader, target, 16))
	ownSource := r.owned(ipv6, ether, payload(expr.PayloadBaseNetworkHeader, ipv6.Src, 16))
	sender.Add(ofIPv6(neighbourAdvertisement), ownTarget, ownSource, nft.Return())
	sender.Add(ofIPv6(neighbourAdvertisement), nft.Drop())
	// Answers to the host apart, nothing is for a link-local address: the host would look for it.
	sender.Add(etherType(ipv6.EtherType()), ipv6.DstIn(expr.CmpOpEq, linkLocals()), nft.Drop())
	sender.Add(etherType(ipv6.EtherType()), ownSource, nft.Return())
	// Frames with a VLAN tag, other protocols, DHCP from no address: nothing that a task needs.
	sender.Add(nft.Drop())
	return []*nft.Chain{source, sender}
}

// Offsets in frames, ARP and types of ICMPv6.
const (
	etherDst, etherSrc        = 0, 6
	etherTypeAt               = 12
	arpSenderMAC, arpSenderIP = 8, 14
	routerAdvertisement       = 134
	neighbourAdvertisement    = 136
	redirect                  = 137
)

func payload(base expr.PayloadBase, offset, length uint32) expr.Payload {
	return expr.Payload{Base: base, Offset: offset, Len: length}
}

// owned matches when the cable's task has this hardware address and this address.
func (r *rules) owned(f nft.Family, mac, addr expr.Payload) []expr.Any {
	const macWord, addrWord = unix.IFNAMSIZ / 4, unix.IFNAMSIZ/4 + 2
	mac.DestRegister, addr.DestRegister = nft.Reg32(macWord), nft.Reg32(addrWord)
	s := r.sets(f)[ownSet]
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, &mac, &addr,
		&expr.Lookup{SourceRegister: nft.Reg, SetName: s.Name, SetID: s.ID},
	}
}

// ownElements are what owned looks up. In IPv6 a task has the address that follows from its hardware address too.
func ownElements(f nft.Family, cable string, mac net.HardwareAddr, addr netip.Addr) (out []nftables.SetElement) {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, cable)
	addresses := []netip.Addr{addr}
	if addr.Is6() {
		addresses = append(addresses, linkLocal(mac))
	}
	for _, a := range addresses {
		out = append(out, nftables.SetElement{Key: slices.Concat(name, nft.Pad(slices.Clone(mac)), a.AsSlice())})
	}
	return out
}

func linkLocals() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

// linkLocal is the address that the kernel makes of a hardware address (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// etherType matches what the frame itself says. That of a frame with a VLAN tag is the tag's, also
// where the kernel has taken the tag out of the frame, and meta protocol is that of the packet.
func etherType(number uint16) []expr.Any {
	load := payload(expr.PayloadBaseLLHeader, etherTypeAt, 2)
	load.DestRegister = nft.Reg
	return []expr.Any{&load, nft.Equal(binary.BigEndian.AppendUint16(nil, number))}
}

// byCable matches what comes by a device whose name begins so.
func byCable(prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, nft.Equal([]byte(prefix))}
}

// ofIPv6 matches a type of ICMPv6.
func ofIPv6(kind byte) []expr.Any {
	return nft.Join(etherType(unix.ETH_P_IPV6), nft.Protocol(expr.CmpOpEq, unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Len: 1}, nft.Equal([]byte{kind}))
}

// redirected is the mark of what the bridge passes on to a published port. No task can set it: a packet that leaves a
// namespace has none.
func redirected() []byte { return binaryutil.NativeEndian.PutUint32(0x5357_b21d) }

// markRedirected is the rule that sets it, for what came by the bridge.
func (r *rules) markRedirected() []expr.Any {
	return nft.Join(r.to(expr.CmpOpEq),
		nft.Redirected(), &expr.Immediate{Register: nft.Reg, Data: redirected()}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: nft.Reg})
}
