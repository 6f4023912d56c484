package planner

import (
	"encoding/binary"
	"math/bits"
)

// Task ids are computed, not random: from the id of the slot's newest task, if the slot has one,
// and from the version of the service's row. Two plans that fill a slot from the same rows, such as
// those of an old and a new leader, compute the same id, and the store accepts only one of them. An
// id that a node has received is never computed again: a slot's newest task is deleted only when
// the same plan adds another task, or when the slot is dropped, and a slot is dropped only after
// the service's row has changed.

const idLen = 25

// idFirst returns the id of the first task of a slot.
func idFirst(s *service, k slotKey) string {
	h := newHash()
	h.text(s.id)
	h.text(k.node)
	h.number(k.number)
	h.number(s.row.GetMeta().GetVersion())
	return h.id()
}

// idNext returns the id of the next task of a slot that has tasks. It depends on the newest task,
// which may not be the task that is replaced: after a failed start-first update, the running task
// of the slot is older than the failed one.
func idNext(s *slot) string {
	newest := s.newest()
	h := newHash()
	h.text(newest.id)
	h.number(newest.service.row.GetMeta().GetVersion())
	return h.id()
}

// hash is a hash of 128 bits. It is not cryptographic, because service ids are random and nobody
// gains from a collision.
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

// id returns the hash as an id of 25 base36 digits: 12 from one half and 13 from the other.
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
