package envelope

import (
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"sync"
)

// The errors of Open and ReadMessage.
var (
	// ErrForeign: the data is not an envelope, or is encrypted with a key that this node does not
	// have.
	ErrForeign = errors.New("not encrypted with a gossip key of this cluster")
	// ErrUnknown: the managers do not list the sender as a member.
	ErrUnknown = errors.New("the sender is not a member")
	// ErrForged: the envelope is not signed with a key of the member that it names as its sender.
	ErrForged = errors.New("not signed with a key of the sender")
	// ErrReplayed: the envelope has been opened before, or is older than the window of remembered
	// sequence numbers.
	ErrReplayed = errors.New("received before")
	// ErrMalformed: a member sealed something that no version of this program seals.
	ErrMalformed = errors.New("malformed envelope")
)

// Trust says which signatures of a node are accepted.
type Trust struct {
	// Keys are the public keys of the node: the newest, and the former one while it may be in use.
	Keys []*ecdsa.PublicKey
	// AnyKey means that every signature is accepted, because this node has just joined and does not
	// know the keys of any node.
	AnyKey bool
}

// Opener opens what the other members send, and remembers which envelopes it has opened.
type Opener struct {
	ring  *Ring
	trust func(id string) (t Trust, known bool)

	mu   sync.Mutex         // guards seen
	seen map[string]*sender // by id
}

// NewOpener returns an Opener. The ring must have been set. trust returns which signatures of a
// node are accepted; known is false for a node that is not a member.
func NewOpener(ring *Ring, trust func(id string) (Trust, bool)) *Opener {
	return &Opener{ring: ring, trust: trust, seen: map[string]*sender{}}
}

// Opened is the content of an envelope.
type Opened struct {
	Sender  string
	Kind    Kind
	Payload []byte
	// session and seq are the numbers that the sender gave the envelope.
	session, seq uint64
}

// Open decrypts an envelope in place and verifies its sender. It returns one of the errors above.
// Its cost for unwanted data is small: it reads only five bytes of data that is not encrypted with
// a gossip key, and only decrypts an envelope of a node that is not a member.
func (o *Opener) Open(b []byte) (Opened, error) {
	if len(b) < headerSize+tagLen || b[0] != magic {
		return Opened{}, ErrForeign
	}
	aead, ok := o.ring.find(b[1 : 1+idSize])
	if !ok {
		return Opened{}, ErrForeign
	}
	plain, err := aead.Open(b[headerSize:headerSize], b[1+idSize:headerSize], b[headerSize:], b[:1+idSize])
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
	case trust.AnyKey:
		return out, nil
	case !o.fresh(out, false): // Checked before the signature because it is cheap.
		return Opened{}, ErrReplayed
	case !Verify(trust.Keys, sig, envelopeDomain, signed):
		return Opened{}, ErrForged
	case !o.fresh(out, true):
		return Opened{}, ErrReplayed
	}
	return out, nil
}

// parse splits the decrypted part of an envelope.
func parse(plain []byte) (sig, signed []byte, out Opened, ok bool) {
	if len(plain) < 1 {
		return nil, nil, out, false
	}
	end := 1 + int(plain[0]) // of the signature
	if len(plain) < end+fixedSize {
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

// Forget removes the senders for which keep returns false.
func (o *Opener) Forget(keep func(id string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.seen {
		if !keep(id) {
			delete(o.seen, id)
		}
	}
}

// rememberedSessions is how many sessions of a sender are remembered. A session lasts as long as
// the daemon of the sender runs. A packet of a forgotten session can be replayed, which is
// harmless: the statement of a node carries its time, and claims about other nodes carry their
// incarnation.
const rememberedSessions = 4

// sender has the remembered sessions of a member, the newest first.
type sender [rememberedSessions]session

type session struct {
	id             uint64
	packets, parts window
}

// fresh reports whether an envelope has not been opened yet. If record is true, it also records the
// envelope as opened.
func (o *Opener) fresh(e Opened, record bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	from := o.seen[e.Sender]
	if from == nil {
		if !record {
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
		if !record {
			return true
		}
		copy(from[1:], from[:])
		from[0], at = session{id: e.session}, 0
	}
	w := &from[at].packets
	if e.Kind != Packet {
		w = &from[at].parts
	}
	return w.fresh(e.seq, record)
}

func (s *session) empty() bool { return s.packets.top == 0 && s.parts.top == 0 }

// windowSize is how many sequence numbers the window has bits for. Only the latest windowSize-64
// numbers are sure to have a bit. An envelope whose number is windowSize-64 or more below the
// highest number counts as replayed, even if it was not received before.
const windowSize = 256

// window remembers which of the latest sequence numbers were recorded, as in RFC 6479. Numbers
// begin at 1.
type window struct {
	top  uint64                  // the highest number
	seen [windowSize / 64]uint64 // a ring of bits
}

func (w *window) fresh(seq uint64, record bool) bool {
	bit, word := uint64(1)<<(seq%64), &w.seen[seq/64%uint64(len(w.seen))]
	switch {
	case seq == 0:
		return false
	case seq <= w.top:
		// The window has whole words of 64 bits. When the highest number enters a new word, all
		// bits of the oldest word are cleared, so an older number than this may have lost its bit.
		if seq+windowSize-64 <= w.top || *word&bit != 0 {
			return false
		}
	case record:
		from, to := w.top/64, seq/64
		for i := range min(to-from, uint64(len(w.seen))) {
			w.seen[(to-i)%uint64(len(w.seen))] = 0
		}
		w.top = seq
	}
	if record {
		*word |= bit
	}
	return true
}
