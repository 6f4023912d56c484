package envelope

import (
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"sync"
)

// Reasons not to open an envelope.
var (
	// ErrForeign: it is none, or is encrypted with a key that this node does not have.
	ErrForeign = errors.New("not encrypted with a gossip key of this cluster")
	// ErrUnknown: the managers do not list its sender as a member.
	ErrUnknown = errors.New("its sender is no member")
	// ErrForged: it is not signed with a key of the member that it names as its sender.
	ErrForged = errors.New("not signed with its sender's key")
	// ErrReplayed: it has been opened before, or is older than what is remembered.
	ErrReplayed = errors.New("received before")
	// ErrMalformed: a member sealed what no build of this program seals.
	ErrMalformed = errors.New("malformed envelope")
)

// Trust is what is known of the keys of a node.
type Trust struct {
	// Keys of the node: the newest, and the one before while it may be in use.
	Keys []*ecdsa.PublicKey
	// Blind: nobody's keys are known, for this node has only just joined. Any signature will do.
	Blind bool
}

// Opener opens what the other members send.
type Opener struct {
	ring  *Ring
	trust func(id string) (t Trust, known bool)

	mu   sync.Mutex // guards seen
	seen map[string]*sender
}

// NewOpener returns an Opener. trust gives the keys of a node; a node that is not known is no
// member.
func NewOpener(ring *Ring, trust func(id string) (Trust, bool)) *Opener {
	return &Opener{ring: ring, trust: trust, seen: map[string]*sender{}}
}

// Opened is the content of an envelope.
type Opened struct {
	Sender  string
	Kind    Kind
	Payload []byte
	// session and seq order the parts of a message.
	session, seq uint64
}

// Open decrypts an envelope in place, and verifies its sender. What comes from a stranger costs no
// more than looking at five bytes, and what comes from one who has a gossip key one decryption.
func (o *Opener) Open(b []byte) (Opened, error) {
	if len(b) < head+tagLen || b[0] != magic {
		return Opened{}, ErrForeign
	}
	aead, ok := o.ring.with(b[1 : 1+idSize])
	if !ok {
		return Opened{}, ErrForeign
	}
	plain, err := aead.Open(b[head:head], b[1+idSize:head], b[head:], b[:1+idSize])
	if err != nil {
		return Opened{}, ErrForeign
	}
	sig, signed, out, ok := parse(plain)
	if !ok {
		return Opened{}, ErrMalformed
	}
	trust, known := o.trust(out.Sender)
	switch {
	case !known:
		return Opened{}, ErrUnknown
	case trust.Blind:
		return out, nil
	case !o.fresh(out, false): // Looked at first because a look is cheap.
		return Opened{}, ErrReplayed
	case !Verify(trust.Keys, sig, envelopeDomain, signed):
		return Opened{}, ErrForged
	case !o.fresh(out, true):
		return Opened{}, ErrReplayed
	}
	return out, nil
}

func parse(plain []byte) (sig, signed []byte, out Opened, ok bool) {
	if len(plain) < 1 {
		return nil, nil, out, false
	}
	end := 1 + int(plain[0]) // of the signature
	if len(plain) < end+fixed {
		return nil, nil, out, false
	}
	sig, signed = plain[1:end], plain[end:]
	kind, idLen, rest := Kind(signed[0]), int(signed[1]), signed[2:]
	if kind < Packet || kind > Last || idLen == 0 || idLen > MaxID || len(rest) < idLen+16 {
		return nil, nil, out, false
	}
	out = Opened{
		Sender: string(rest[:idLen]), Kind: kind, Payload: rest[idLen+16:],
		session: binary.BigEndian.Uint64(rest[idLen:]), seq: binary.BigEndian.Uint64(rest[idLen+8:]),
	}
	return sig, signed, out, true
}

// Forget drops what is remembered of senders that are not kept.
func (o *Opener) Forget(keep func(id string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.seen {
		if !keep(id) {
			delete(o.seen, id)
		}
	}
}

// rememberedSessions of a sender: a session lasts as long as its daemon runs. A packet of a session
// that was forgotten may be replayed, which is harmless: what a node says of itself carries its
// time, and statements of others their incarnation.
const rememberedSessions = 4

// sender is what was received of a member, the newest session first.
type sender [rememberedSessions]session

type session struct {
	id             uint64
	packets, parts window
}

// fresh reports whether an envelope has not been opened yet. With take, it counts as opened.
func (o *Opener) fresh(e Opened, take bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	from := o.seen[e.Sender]
	if from == nil {
		if !take {
			return true
		}
		from = &sender{}
		o.seen[e.Sender] = from
	}
	at := 0
	for at < len(from) && (from[at].id != e.session || from[at].empty()) {
		at++
	}
	if at == len(from) {
		if !take {
			return true
		}
		copy(from[1:], from[:])
		from[0], at = session{id: e.session}, 0
	}
	w := &from[at].packets
	if e.Kind != Packet {
		w = &from[at].parts
	}
	return w.fresh(e.seq, take)
}

func (s *session) empty() bool { return s.packets.top == 0 && s.parts.top == 0 }

// windowSize is by how many envelopes one may be overtaken.
const windowSize = 256

// window remembers which of the latest sequence numbers it has seen, as in RFC 6479. Numbers begin
// at 1.
type window struct {
	top  uint64
	seen [windowSize / 64]uint64 // a ring of bits
}

func (w *window) fresh(seq uint64, take bool) bool {
	bit, word := uint64(1)<<(seq%64), &w.seen[seq/64%uint64(len(w.seen))]
	switch {
	case seq == 0:
		return false
	case seq <= w.top:
		// One word less than the ring has: the word of the newest is shared with the oldest.
		if seq+windowSize-64 <= w.top || *word&bit != 0 {
			return false
		}
	case take:
		from, to := w.top/64, seq/64
		for i := range min(to-from, uint64(len(w.seen))) {
			w.seen[(to-i)%uint64(len(w.seen))] = 0
		}
		w.top = seq
	}
	if take {
		*word |= bit
	}
	return true
}
