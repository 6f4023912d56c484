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

// frameTable is the table that filters the frames which the bridge forwards. The kernel's flag
// `isolated` of bridge ports cannot replace the table, for two reasons. The flag lets frames pass
// between an isolated task and one that is not isolated. It also blocks published ports if the
// module br_netfilter is loaded, as dockerd does: the bridge, and not the host's routing, then
// forwards a packet from one task that is redirected to the published port of another.
func (r *rules) frameTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyBridge, Name: r.tableName()}
}

// frameChains returns the chains of the bridge table.
func (r *rules) frameChains() []*nft.Chain {
	// br_netfilter has a lower priority number. It passes redirected packets through the chain
	// `forward-filter`, which marks them before the chain `isolated` sees them.
	last := nftables.ChainPriorityRef(200) // NF_BR_PRI_FILTER_OTHER
	isolated := &nft.Chain{Name: "isolated", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Prio: last}
	bridgeInput := &nft.Chain{Name: "bridge-input", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Prio: last}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		isolated.Add(&expr.Meta{Key: expr.MetaKeyMARK, Register: nft.Reg}, nft.NotEqual(redirectedMark()),
			&expr.Meta{Key: key, Register: nft.Reg}, nft.Equal([]byte(isolatedPrefix)), nft.Drop())
	}
	for _, prefix := range []string{cablePrefix, isolatedPrefix} {
		// Frames for 01:80:c2:00:00:00 to 0f. The bridge does not forward them: the host receives
		// them on the container's cable, where no rule checks their source. See
		// filterReservedMulticast.
		bridgeInput.Add(&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseLLHeader, Offset: etherDst, Len: 6},
			&expr.Bitwise{SourceRegister: nft.Reg, DestRegister: nft.Reg, Len: 6, Mask: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xf0}, Xor: make([]byte, 6)},
			nft.Equal([]byte{0x01, 0x80, 0xc2, 0, 0, 0}), fromCable(prefix), nft.Drop())
	}
	for _, f := range r.enabledFamilies() {
		subnet, gateway, reachable := r.rangeOf(f), r.addressIn(f, hostnet.Nth(r.subnet, 1)), r.sets(f)[reachableSet]
		inside := nft.Join(etherType(f.EtherType()), f.DstIn(expr.CmpOpEq, subnet), f.LoadDst(nft.Reg), nft.NotEqual(gateway.AsSlice()))
		bridgeInput.Add(inside, fromCable(isolatedPrefix), nft.Drop())
		bridgeInput.Add(inside, &expr.Lookup{SourceRegister: nft.Reg, SetName: reachable.Name, SetID: reachable.ID, Invert: true}, fromCable(cablePrefix), nft.Drop())
	}
	return append(r.senderChains(), isolated, bridgeInput)
}

// senderChains returns the chains that let a task send only from its own addresses. They run before
// br_netfilter.
func (r *rules) senderChains() []*nft.Chain {
	first := nftables.ChainPriorityRef(-200) // NF_BR_PRI_FILTER_BRIDGED
	source := &nft.Chain{Name: "source", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Prio: first}
	for _, prefix := range []string{cablePrefix, isolatedPrefix} {
		source.Add(fromCable(prefix), &expr.Verdict{Kind: expr.VerdictGoto, Chain: "sender"})
	}
	sender := &nft.Chain{Name: "sender"}
	ipv4, ipv6 := nft.Families()[0], nft.Families()[1]
	ether := payload(expr.PayloadBaseLLHeader, etherSrc, 6)
	sender.Add(etherType(ipv4.EtherType()), r.owned(ipv4, ether, payload(expr.PayloadBaseNetworkHeader, ipv4.Src, 4)), nft.Return())
	arpAddress := payload(expr.PayloadBaseNetworkHeader, arpSenderIP, 4)
	sender.Add(etherType(unix.ETH_P_ARP), r.owned(ipv4, ether, arpAddress),
		r.owned(ipv4, payload(expr.PayloadBaseNetworkHeader, arpSenderMAC, 6), arpAddress), nft.Return())
	for _, kind := range []byte{routerAdvertisement, redirect} {
		sender.Add(icmpv6Type(kind), nft.Drop())
	}
	const target = 8
	ownTarget := r.owned(ipv6, ether, payload(expr.PayloadBaseTransportHeader, target, 16))
	ownSource := r.owned(ipv6, ether, payload(expr.PayloadBaseNetworkHeader, ipv6.Src, 16))
	sender.Add(icmpv6Type(neighbourAdvertisement), ownTarget, ownSource, nft.Return())
	sender.Add(icmpv6Type(neighbourAdvertisement), nft.Drop())
	// The advertisements above may go to the host's link-local address. No other packet may go to a
	// link-local address, because the host would start neighbour discovery for it.
	sender.Add(etherType(ipv6.EtherType()), ipv6.DstIn(expr.CmpOpEq, linkLocals()), nft.Drop())
	sender.Add(etherType(ipv6.EtherType()), ownSource, nft.Return())
	// A task needs no other frames. Examples are frames with a VLAN tag, other protocols, and DHCP
	// requests, which have no source address.
	sender.Add(nft.Drop())
	return []*nft.Chain{source, sender}
}

// These constants are offsets in Ethernet frames and ARP packets, and types of ICMPv6 messages.
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

// owned matches if the task of the cable has this pair of hardware address and IP address.
func (r *rules) owned(f nft.Family, mac, addr expr.Payload) []expr.Any {
	const macWord, addrWord = unix.IFNAMSIZ / 4, unix.IFNAMSIZ/4 + 2
	mac.DestRegister, addr.DestRegister = nft.Reg32(macWord), nft.Reg32(addrWord)
	s := r.sets(f)[ownSet]
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, &mac, &addr,
		&expr.Lookup{SourceRegister: nft.Reg, SetName: s.Name, SetID: s.ID},
	}
}

// ownElements returns the elements for owned. In IPv6 a task also has the link-local address that
// derives from its hardware address.
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

// linkLocal returns the link-local address that the kernel derives from a hardware address (RFC
// 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// etherType matches the type field of the frame. In a frame with a VLAN tag this is the type of the
// tag, even if the kernel has moved the tag out of the frame; `meta protocol` would be the type of
// the packet behind the tag.
func etherType(number uint16) []expr.Any {
	load := payload(expr.PayloadBaseLLHeader, etherTypeAt, 2)
	load.DestRegister = nft.Reg
	return []expr.Any{&load, nft.Equal(binary.BigEndian.AppendUint16(nil, number))}
}

// fromCable matches frames from a device whose name begins with the prefix.
func fromCable(prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: nft.Reg}, nft.Equal([]byte(prefix))}
}

// icmpv6Type matches ICMPv6 messages of one type.
func icmpv6Type(kind byte) []expr.Any {
	return nft.Join(etherType(unix.ETH_P_IPV6), nft.Protocol(expr.CmpOpEq, unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: nft.Reg, Base: expr.PayloadBaseTransportHeader, Len: 1}, nft.Equal([]byte{kind}))
}

// redirectedMark marks packets which the bridge forwards to a published port. A task cannot set the
// mark, because the kernel clears it when a packet leaves a namespace.
func redirectedMark() []byte { return binaryutil.NativeEndian.PutUint32(0x5357_b21d) }

// markRedirected is the rule that sets redirectedMark on packets from the bridge to the bridge.
func (r *rules) markRedirected() []expr.Any {
	return nft.Join(r.to(expr.CmpOpEq),
		nft.Redirected(), &expr.Immediate{Register: nft.Reg, Data: redirectedMark()}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: nft.Reg})
}
