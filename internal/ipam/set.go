package ipam

import (
	"math/bits"
	"net/netip"
)

// Set is a set of addresses of any subnet, IPv4 and IPv6. The zero Set is empty.
type Set struct{ blocks map[block]*[words]uint64 }

// A block of 1024 addresses that are alike in all but their last bits.
type block struct {
	hi, lo uint64
	v4     bool
}

const (
	words     = 16
	blockBits = 10
)

func place(a netip.Addr) (b block, bit uint64) {
	x := a.As16()
	var hi uint64
	for _, v := range x[:8] {
		hi = hi<<8 | uint64(v)
	}
	n := low(a)
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

// Add puts an address into the set.
func (s *Set) Add(a netip.Addr) {
	b, bit := place(a)
	w := s.blocks[b]
	if w == nil {
		w = new([words]uint64)
		if s.blocks == nil {
			s.blocks = map[block]*[words]uint64{}
		}
		s.blocks[b] = w
	}
	w[bit/64] |= 1 << (bit % 64)
}

// Remove takes an address out of the set.
func (s *Set) Remove(a netip.Addr) {
	b, bit := place(a)
	w := s.blocks[b]
	if w == nil {
		return
	}
	if w[bit/64] &^= 1 << (bit % 64); *w == [words]uint64{} {
		delete(s.blocks, b)
	}
}

// Has says whether an address is in the set.
func (s *Set) Has(a netip.Addr) bool {
	b, bit := place(a)
	w := s.blocks[b]
	return w != nil && w[bit/64]&(1<<(bit%64)) != 0
}

// Len is how many addresses are in the set.
func (s *Set) Len() int {
	n := 0
	for _, w := range s.blocks {
		for _, x := range w {
			n += bits.OnesCount64(x)
		}
	}
	return n
}

// NextFree is the first address that is not in the set, a or one above it. It steps over 64 taken ones at a time.
func (s *Set) NextFree(a netip.Addr) netip.Addr {
	for a.IsValid() {
		b, bit := place(a)
		w := s.blocks[b]
		if w == nil {
			return a
		}
		for i := bit / 64; i < words; i++ {
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

// Used is how many of the addresses that the subnet has to give are in the set.
func (s *Set) Used(sub Subnet) uint64 {
	var n uint64
	for b, w := range s.blocks {
		if !sub.prefix.Contains(b.addr(0)) && !b.around(sub.prefix) {
			continue
		}
		for i, x := range w {
			for ; x != 0; x &= x - 1 {
				if sub.Counts(b.addr(uint64(i*64 + bits.TrailingZeros64(x)))) {
					n++
				}
			}
		}
	}
	return n
}

// around: the block is larger than the subnet, and the subnet lies in it.
func (b block) around(p netip.Prefix) bool {
	other, _ := place(p.Addr())
	return other == b
}
