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

// Reg is the first 16-byte register; Reg32(n) is the n-th 4-byte one in the same memory, where each field of a
// concatenation begins.
const Reg = unix.NFT_REG_1

// Reg32 returns the n-th 4-byte register.
func Reg32(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

// Family is what differs between IPv4 and IPv6.
type Family struct {
	// Number is NFPROTO_IPV4 or NFPROTO_IPV6, which equal AF_INET and AF_INET6.
	Number byte
	// Name as in `ip` and `ip6`, and Digit to name maps by.
	Name, Digit string
	// Src and Dst are offsets of addresses of Len bytes.
	Src, Dst, Len uint32
	Address       nftables.SetDatatype
}

// Families lists both.
func Families() []Family {
	return []Family{
		{Number: unix.NFPROTO_IPV4, Name: "ip", Digit: "4", Src: 12, Dst: 16, Len: 4, Address: nftables.TypeIPAddr},
		{Number: unix.NFPROTO_IPV6, Name: "ip6", Digit: "6", Src: 8, Dst: 24, Len: 16, Address: nftables.TypeIP6Addr},
	}
}

// Of tells whether the address is of the family.
func (f Family) Of(a netip.Addr) bool { return a.BitLen() == int(f.Len)*8 }

// Loopback is the range that is the host alone.
func (f Family) Loopback() netip.Prefix {
	if f.Len == 4 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// EtherType is the family's in a frame.
func (f Family) EtherType() uint16 {
	if f.Len == 4 {
		return unix.ETH_P_IP
	}
	return unix.ETH_P_IPV6
}

// Words is how many 4-byte registers an address fills.
func (f Family) Words() int { return int(f.Len / 4) }

// Is matches packets of the family; rules of an `inet` table need it before they look at addresses.
func (f Family) Is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: Reg}, Equal([]byte{f.Number})}
}

// LoadDst puts the destination address into the register, LoadSrc the source.
func (f Family) LoadDst(reg uint32) expr.Any { return f.load(reg, f.Dst) }

// LoadSrc puts the source address into the register.
func (f Family) LoadSrc(reg uint32) expr.Any { return f.load(reg, f.Src) }

func (f Family) load(reg, offset uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.Len}
}

// DstIn and SrcIn match addresses in a range, or outside of it with CmpOpNeq.
func (f Family) DstIn(op expr.CmpOp, p netip.Prefix) []expr.Any { return f.inside(f.Dst, op, p) }

// SrcIn is DstIn for the source address.
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

// DNAT rewrites the destination to the address in Reg, and with port to the port in the register behind it.
func (f Family) DNAT(port bool) expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Number), RegAddrMin: Reg, RegAddrMax: Reg}
	if port {
		nat.Specified, nat.RegProtoMin, nat.RegProtoMax = true, Reg32(f.Words()), Reg32(f.Words())
	}
	return nat
}

// Equal compares Reg with data.
func Equal(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: Reg, Data: data} }

// NotEqual is the opposite.
func NotEqual(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: Reg, Data: data} }

// Protocol matches the number in the IP header.
func Protocol(op expr.CmpOp, number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: Reg}, &expr.Cmp{Op: op, Register: Reg, Data: []byte{number}}}
}

// DatagramTo matches UDP to a port.
func DatagramTo(port uint16) []expr.Any {
	return append(Protocol(expr.CmpOpEq, unix.IPPROTO_UDP),
		&expr.Payload{DestRegister: Reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		Equal(binary.BigEndian.AppendUint16(nil, port)))
}

// Drop ends a packet.
func Drop() expr.Any { return &expr.Verdict{Kind: expr.VerdictDrop} }

// Return ends a chain: to a base chain's policy, or to where it was jumped from.
func Return() expr.Any { return &expr.Verdict{Kind: expr.VerdictReturn} }

// Random puts a number below modulus into the register; keys have it in the machine's byte order.
func Random(reg uint32, modulus int) expr.Any {
	return &expr.Numgen{Register: reg, Modulus: uint32(modulus), Type: unix.NFT_NG_RANDOM}
}

// Slot is the field of a key that Random looks up.
func Slot(i int) []byte { return binaryutil.NativeEndian.PutUint32(uint32(i)) }

// Interface matches the name of the interface that a packet came by (MetaKeyIIFNAME) or leaves by (MetaKeyOIFNAME).
func Interface(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: Reg}, &expr.Cmp{Op: op, Register: Reg, Data: padded}}
}

// Device matches the interface that a packet came by (MetaKeyIIF) or leaves by (MetaKeyOIF) by its number, which is what costs
// least to compare. Another device of the same name has another.
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

// Redirected matches connections of which the destination was rewritten (IPS_DST_NAT).
func Redirected() []expr.Any {
	const dstNAT = 1 << 5
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: Reg},
		&expr.Bitwise{SourceRegister: Reg, DestRegister: Reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		NotEqual(make([]byte, 4)),
	}
}

// Asking matches packets in the direction in which their connection was opened.
func Asking() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: Reg}, Equal([]byte{0})}
}

// Answering matches packets in the other direction.
func Answering() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: Reg}, Equal([]byte{1})}
}

// Opening matches the packets that open a connection.
func Opening() []expr.Any { return state(expr.CtStateBitNEW) }

// Invalid matches packets that belong to no connection and open none, by the kernel's reckoning.
func Invalid() []expr.Any { return state(expr.CtStateBitINVALID) }

func state(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: Reg},
		&expr.Bitwise{SourceRegister: Reg, DestRegister: Reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4)},
		NotEqual(make([]byte, 4)),
	}
}

// Port is a port as a field of a key or value: each fills 4 bytes.
func Port(n uint16) []byte { return Pad(binary.BigEndian.AppendUint16(nil, n)) }

// Pad fills a field up to 4 bytes.
func Pad(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

// Join puts a rule together from single expressions and lists of them.
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
