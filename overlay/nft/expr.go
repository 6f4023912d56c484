//go:build linux

package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Reg is the first 16-byte register. Reg32(n) is the n-th 4-byte register in the same memory. Each
// field of a concatenated key begins at a 4-byte register.
const Reg = unix.NFT_REG_1

// Reg32 returns the n-th 4-byte register.
func Reg32(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

// Family holds the differences between IPv4 and IPv6.
type Family struct {
	// Number is NFPROTO_IPV4 or NFPROTO_IPV6, which equal AF_INET and AF_INET6.
	Number byte
	// Name is "ip" or "ip6". Digit is "4" or "6", the suffix in the names of maps and sets.
	Name, Digit string
	// Src and Dst are the offsets of the addresses in the IP header. Len is the length of an
	// address in bytes.
	Src, Dst, Len uint32
	// Address is the data type of an address in a set.
	Address nftables.SetDatatype
}

// Families returns IPv4 and IPv6, in this order.
func Families() []Family {
	return []Family{
		{Number: unix.NFPROTO_IPV4, Name: "ip", Digit: "4", Src: 12, Dst: 16, Len: 4, Address: nftables.TypeIPAddr},
		{Number: unix.NFPROTO_IPV6, Name: "ip6", Digit: "6", Src: 8, Dst: 24, Len: 16, Address: nftables.TypeIP6Addr},
	}
}

// Of reports whether the address is of the family.
func (f Family) Of(a netip.Addr) bool { return a.BitLen() == int(f.Len)*8 }

// Loopback returns the range of loopback addresses.
func (f Family) Loopback() netip.Prefix {
	if f.Len == 4 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// EtherType returns the type of the family in an Ethernet frame.
func (f Family) EtherType() uint16 {
	if f.Len == 4 {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// Words returns the number of 4-byte registers that an address fills.
func (f Family) Words() int { return int(f.Len / 4) }

// Is matches packets of the family. A rule in an `inet` table needs it before a match on addresses.
func (f Family) Is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: Reg}, Equal([]byte{f.Number})}
}

// LoadDst puts the destination address into the register.
func (f Family) LoadDst(reg uint32) expr.Any { return f.load(reg, f.Dst) }

// LoadSrc puts the source address into the register.
func (f Family) LoadSrc(reg uint32) expr.Any { return f.load(reg, f.Src) }

func (f Family) load(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.Len}
}

// DstIn matches packets whose destination is in the range, or is not in it with CmpOpNeq.
func (f Family) DstIn(op expr.CmpOp, p netip.Prefix) []expr.Any { return f.inside(f.Dst, op, p) }

// SrcIn matches packets whose source is in the range, or is not in it with CmpOpNeq.
func (f Family) SrcIn(op expr.CmpOp, p netip.Prefix) []expr.Any { return f.inside(f.Src, op, p) }

func (f Family) inside(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	mask := make([]byte, f.Len)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		f.load(Reg, offset),
		&expr.Bitwise{SourceRegister: Reg, DestRegister: Reg, Len: f.Len, Mask: mask, Xor: make([]byte, f.Len)},
		&expr.Cmp{Op: op, Register: Reg, Data: p.Masked().Addr().AsSlice()},
	}
}

// DNAT rewrites the destination to the address in Reg and, if port is set, to the port in the
// 4-byte register after the address.
func (f Family) DNAT(port bool) expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Number), RegAddrMin: Reg, RegAddrMax: Reg}
	if port {
		nat.Specified, nat.RegProtoMin, nat.RegProtoMax = true, Reg32(f.Words()), Reg32(f.Words())
	}
	return nat
}

// Equal matches if Reg contains data.
func Equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: Reg, Data: data} }

// NotEqual matches if Reg does not contain data.
func NotEqual(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: Reg, Data: data} }

// Protocol compares the protocol number of the packet.
func Protocol(op expr.CmpOp, number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: Reg}, &expr.Cmp{Op: op, Register: Reg, Data: []byte{number}}}
}

// DatagramTo matches UDP packets to a port.
func DatagramTo(port uint16) []expr.Any {
	return append(Protocol(expr.CmpOpEq, unix.IPPROTO_UDP),
		&expr.Payload{DestRegister: Reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		Equal(binary.BigEndian.AppendUint16(nil, port)))
}

// Drop drops the packet.
func Drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

// Return leaves the chain. The packet continues at the caller of the chain, or gets the policy of a
// base chain.
func Return() expr.Any { return &expr.Verdict{Kind: expr.VerdictReturn} }

// Random puts a random number from 0 to modulus-1 into the register, in the byte order of the
// machine.
func Random(reg uint32, modulus int) expr.Any {
	return &expr.Numgen{Register: reg, Modulus: uint32(modulus), Type: unix.NFT_NG_RANDOM}
}

// Slot encodes a number as Random does, for the key of a map.
func Slot(i int) []byte { return binaryutil.NativeEndian.PutUint32(uint32(i)) }

// Interface compares the name of the interface on which a packet arrives (MetaKeyIIFNAME) or leaves
// (MetaKeyOIFNAME).
func Interface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: Reg}, &expr.Cmp{Op: op, Register: Reg, Data: padded}}
}

// Device compares the index of the interface on which a packet arrives (MetaKeyIIF) or leaves
// (MetaKeyOIF). The index is the cheapest value to compare. A device that is deleted and created
// again has a new index.
func Device(key expr.MetaKey, op expr.CmpOp, index int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: Reg}, &expr.Cmp{Op: op, Register: Reg, Data: binaryutil.NativeEndian.PutUint32(uint32(index))}}
}

// ToLocal matches packets to an address of this host.
func ToLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: Reg, ResultADDRTYPE: true, FlagDADDR: true},
		Equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
	}
}

// Redirected matches packets of connections whose destination was rewritten (IPS_DST_NAT).
func Redirected() []expr.Any {
	const dstNAT = 1 << 5
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: Reg},
		&expr.Bitwise{SourceRegister: Reg, DestRegister: Reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		NotEqual(make([]byte, 4)),
	}
}

// Asking matches packets from the side that opened the connection.
func Asking() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: Reg}, Equal([]byte{0})}
}

// Answering matches packets to the side that opened the connection.
func Answering() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: Reg}, Equal([]byte{1})}
}

// Opening matches the packets that open a connection.
func Opening() []expr.Any { return state(expr.CtStateBitNEW) }

// Invalid matches packets that, according to conntrack, belong to no connection and cannot open
// one.
func Invalid() []expr.Any { return state(expr.CtStateBitINVALID) }

func state(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: Reg},
		&expr.Bitwise{SourceRegister: Reg, DestRegister: Reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4)},
		NotEqual(make([]byte, 4)),
	}
}

// Port encodes a port as a field of a key or value. Each field fills 4 bytes.
func Port(n uint16) []byte { return Pad(binary.BigEndian.AppendUint16(nil, n)) }

// Pad appends zeros up to a multiple of 4 bytes.
func Pad(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

// Join concatenates the expressions of a rule. Each part is an expr.Any or a []expr.Any.
func Join(parts ...any) []expr.Any {
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
