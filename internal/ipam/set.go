package ipam

import (
	"math/bits"
	"net/netip"
)

// Set is a set of IPv4 and IPv6 addresses. The zero value is an empty set.
type Set struct {
	blocks map[block]*[wordsPerBlock]uint64
}

// block identifies 1024 addresses that differ only in their last 10 bits.
type block struct {
	hi, lo uint64
	v4     bool
}

const (
	wordsPerBlock = 16
	blockBits     = 10
)

func blockOf(a netip.Addr) (b block, bit uint64) {
	x := a.As16()
	var hi uint64
	for _, v := range x[:8] {
		hi = hi<<8 | uint64(v)
	}
	n := lowBits(a)
	return block{hi, n >> blockBits, a.Is4()}, n & (1<<blockBits - 1)
}

func (b block) addr(bit uint64) netip.Addr {
	var x [16]byte
	n := b.lo<<blockBits | bit
	for i := range 8 {
		x[i], x[8+i] = byte(b.hi>>(56-8*i)), byte(n>>(56-8*i))
	}
	a := netip.AddrFrom16(x)
	if b.v4 {
		a = a.Unmap()
	}
	return a
}

// Add adds an address.
func (s *Set) Add(a netip.Addr) {
	b, bit := blockOf(a)
	w := s.blocks[b]
	if w == nil {
		w = new([wordsPerBlock]uint64)
		if s.blocks == nil {
			s.blocks = map[block]*[wordsPerBlock]uint64{}
		}
		s.blocks[b] = w
	}
	w[bit/64] |= 1 << (bit % 64)
}

// Remove removes an address.
func (s *Set) Remove(a netip.Addr) {
	b, bit := blockOf(a)
	w := s.blocks[b]
	if w == nil {
		return
	}
	if w[bit/64] &^= 1 << (bit % 64); *w == [wordsPerBlock]uint64{} {
		delete(s.blocks, b)
	}
}

// Has says whether the set contains an address.
func (s *Set) Has(a netip.Addr) bool {
	b, bit := blockOf(a)
	w := s.blocks[b]
	return w != nil && w[bit/64]&(1<<(bit%64)) != 0
}

// Len returns the number of addresses in the set.
func (s *Set) Len() int {
	n := 0
	for _, w := range s.blocks {
		for _, x := range w {
			n += bits.OnesCount64(x)
		}
	}
	return n
}

// NextFree returns the lowest address that is not in the set and not below a. It returns the zero
// Addr if no such address exists. It examines 64 addresses at a time.
func (s *Set) NextFree(a netip.Addr) netip.Addr {
	for a.IsValid() {
		b, bit := blockOf(a)
		w := s.blocks[b]
		if w == nil {
			return a
		}
		for i := bit / 64; i < wordsPerBlock; i++ {
			free := ^w[i]
			if i == bit/64 {
				free &= ^uint64(0) << (bit % 64)
			}
			if free != 0 {
				return b.addr(i*64 + uint64(bits.TrailingZeros64(free)))
			}
		}
		a = b.addr(1<<blockBits - 1).Next()
	}
	return a
}

// CountIn returns how many addresses of the subnet's range are in the set.
func (s *Set) CountIn(sub Subnet) uint64 {
	var n uint64
	for b, w := range s.blocks {
		if !sub.prefix.Contains(b.addr(0)) && !b.covers(sub.prefix) {
			continue
		}
		for i, x := range w {
			for ; x != 0; x &= x - 1 {
				if sub.InRange(b.addr(uint64(i*64 + bits.TrailingZeros64(x)))) {
					n++
				}
			}
		}
	}
	return n
}

// covers says whether the subnet is smaller than a block and lies in b.
func (b block) covers(p netip.Prefix) bool {
	other, _ := blockOf(p.Addr())
	return other == b
}
