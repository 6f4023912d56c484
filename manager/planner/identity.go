package planner

import (
	"encoding/binary"
	"math/bits"
)

// Ids of tasks are derived, not drawn: from the slot's newest task, if it has one, and the version of the service's row. So
// two plans that fill a slot from the same rows, say by a leader and by the one that followed it, make the same id, and the
// store takes only one of them. An id that a node has had does not come twice: a slot's newest task is forgotten only where
// another follows in the same plan, or with the slot, which a change of the service's row has dropped.

const idLen = 25

func idFirst(s *service, k slotKey) string {
	h := newHash()
	h.text(s.id)
	h.text(k.node)
	h.number(k.number)
	h.number(s.row.GetMeta().GetVersion())
	return h.id()
}

// idNext is the id of the next task of a slot that has had tasks. It follows from the newest task, which is not always the
// one that is replaced: after a start-first update that failed, the slot's running task is older than the failed one.
func idNext(s *slot) string {
	newest := s.newest()
	h := newHash()
	h.text(newest.id)
	h.number(newest.svc.row.GetMeta().GetVersion())
	return h.id()
}

// hash mixes into 128 bits. Nobody gains by a collision, and service ids are random: it need not be cryptographic.
type hash struct{ a, b uint64 }

func newHash() hash { return hash{0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f} }

func (h *hash) number(n uint64) {
	hi, lo := bits.Mul64(h.a^n, 0xa0761d6478bd642f)
	h.a = hi ^ lo ^ h.b
	hi, lo = bits.Mul64(h.b^bits.RotateLeft64(n, 32)^h.a, 0xe7037ed1a0b428db)
	h.b = (hi ^ lo) + h.a
}

func (h *hash) text(s string) {
	h.number(uint64(len(s)))
	var word [8]byte
	for len(s) > 0 {
		n := copy(word[:], s)
		clear(word[n:])
		h.number(binary.LittleEndian.Uint64(word[:]))
		s = s[n:]
	}
}

// id writes the hash as the 25 base36 digits that ids have: 12 of one half and 13 of the other.
func (h *hash) id() string {
	h.number(0)
	h.number(1)
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var out [idLen]byte
	a, b := h.a, h.b
	for i := range 12 {
		out[i] = digits[a%36]
		a /= 36
	}
	for i := 12; i < idLen; i++ {
		out[i] = digits[b%36]
		b /= 36
	}
	return string(out[:])
}
