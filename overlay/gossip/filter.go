package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"swarm/overlay/gossip/envelope"
)

// The messages of memberlist, by their first byte. Those that it has besides (state of the
// application, compressed and encrypted ones, labels) are never sent by this program and not let
// through.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgNack         = 11
	msgChecked      = 12 // a message behind its checksum
	msgError        = 13
)

// errGate is what a message breaks that this program does not send.
var errGate = errors.New("not a gossip message")

// kind of a field's value.
type kind byte

const (
	number kind = iota
	text
	flag
	address // of 4 or 16 bytes
	versions
	accused // an incarnation that somebody calls dead
	claimed // an incarnation that somebody calls alive, or tells of in an exchange of state
)

// claimLead is how far, in seconds, an incarnation may be ahead of this host's clock. The clocks of
// hosts may differ by as much.
const claimLead = 3600

// Memberlist orders what it hears of a node by the node's incarnation, a number of 32 bits that
// wraps: of two claims the one with the higher counts, and the node objects to a claim with the
// next number. A claim with the highest could never be objected to. Any member can make one, so no
// incarnation is let through that is above the time in seconds, 1.8e9 in 2026. A node's own grows
// by one with each restart, renewal and objection, and does not come near. What a forged claim
// leaves no room for now has it a moment later; an objection has room at once, for it may be ahead.
func (s *scanner) incarnation(k kind) {
	most := min(s.clock, 1<<32-1-2*claimLead)
	if k == claimed {
		most += claimLead
	}
	s.number(most)
}

// field bounds a value: a number itself, a text its length.
type field struct {
	kind kind
	max  uint64
}

var (
	name32   = field{text, envelope.MaxID}
	number32 = field{number, 1<<32 - 1}
	number16 = field{number, 1<<16 - 1}
)

// messages are the fields that each message may have. Everything that memberlist's decoders get has
// passed this table: they allocate what a header announces, and index into arrays that may be too
// short.
var messages = map[byte]map[string]field{
	msgPing: {"SeqNo": number32, "Node": name32, "SourceAddr": {address, 0}, "SourcePort": number16, "SourceNode": name32},
	msgIndirectPing: {
		"SeqNo": number32, "Target": {address, 0}, "Port": number16, "Node": name32, "Nack": {flag, 0},
		"SourceAddr": {address, 0}, "SourcePort": number16, "SourceNode": name32,
	},
	msgAck:     {"SeqNo": number32, "Payload": {text, 0}},
	msgNack:    {"SeqNo": number32},
	msgSuspect: {"Incarnation": {accused, 0}, "Node": name32, "From": name32},
	msgDead:    {"Incarnation": {accused, 0}, "Node": name32, "From": name32},
	msgAlive: {
		"Incarnation": {claimed, 0}, "Node": name32, "Addr": {address, 0}, "Port": number16, "Meta": {text, 512}, "Vsn": {versions, 0},
	},
	msgError: {"Error": {text, 1024}},
}

var (
	// pushPullHeader is followed by as many states as it says, and nothing else.
	pushPullHeader = map[string]field{"Nodes": {number, envelope.MaxMessage / 32}, "UserStateLen": {number, 0}, "Join": {flag, 0}}
	nodeState      = map[string]field{
		"Name": name32, "Addr": {address, 0}, "Port": number16, "Meta": {text, 512}, "Incarnation": {claimed, 0},
		"State": {number, 3}, "Vsn": {versions, 0},
	}
)

// admitPacket says whether memberlist may see a packet.
func admitPacket(b []byte) error {
	if len(b) >= 5 && b[0] == msgChecked {
		b = b[5:]
	}
	if len(b) < 2 || b[0] != msgCompound {
		return admitMessage(b)
	}
	n, b := int(b[1]), b[2:]
	if len(b) < 2*n {
		return errGate
	}
	sizes, b := b[:2*n], b[2*n:]
	for ; len(sizes) > 0; sizes = sizes[2:] {
		size := int(binary.BigEndian.Uint16(sizes))
		if size > len(b) {
			return errGate
		}
		if err := admitMessage(b[:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

func admitMessage(b []byte) error {
	if len(b) == 0 || b[0] == msgError {
		return errGate
	}
	return admitFields(b)
}

func admitFields(b []byte) error {
	fields, ok := messages[b[0]]
	if !ok {
		return fmt.Errorf("%w: type %d", errGate, b[0])
	}
	s := newScanner(b[1:])
	if s.fields(fields); s.bad || len(s.rest) > 0 {
		return fmt.Errorf("%w: malformed, of type %d", errGate, b[0])
	}
	return nil
}

// admitStream says whether memberlist may see what was sent on a stream.
func admitStream(b []byte) error {
	if len(b) == 0 {
		return errGate
	}
	switch b[0] {
	case msgPing, msgAck, msgError:
		return admitFields(b)
	case msgPushPull:
	default:
		return fmt.Errorf("%w: type %d on a stream", errGate, b[0])
	}
	s := newScanner(b[1:])
	s.fields(pushPullHeader)
	for n := s.nodes; n > 0 && !s.bad; n-- {
		s.fields(nodeState)
	}
	if s.bad || len(s.rest) > 0 {
		return fmt.Errorf("%w: malformed state", errGate)
	}
	return nil
}

// scanner reads the subset of msgpack that memberlist writes, without allocating. bad says that
// something else came.
type scanner struct {
	rest []byte
	bad  bool
	// nodes is the field Nodes.
	nodes uint64
	// clock is this host's, in seconds.
	clock uint64
}

func newScanner(b []byte) scanner {
	return scanner{rest: b, clock: uint64(max(0, time.Now().Unix()))}
}

// fields reads a map with some of the fields, each at most once.
func (s *scanner) fields(allowed map[string]field) {
	n := s.length(0x80, 0x8f, 0xde, 0xdf)
	if n > len(allowed) {
		s.bad = true
	}
	for ; n > 0 && !s.bad; n-- {
		key := s.bytes(32)
		f, ok := allowed[string(key)]
		if !ok {
			s.bad = true
			return
		}
		switch f.kind {
		case number:
			v := s.number(f.max)
			if string(key) == "Nodes" {
				s.nodes = v
			}
		case accused, claimed:
			s.incarnation(f.kind)
		case text:
			s.bytes(int(f.max))
		case flag:
			if v := s.next(); v != 0xc2 && v != 0xc3 {
				s.bad = true
			}
		case address:
			if n := len(s.bytes(16)); n != 4 && n != 16 {
				s.bad = true
			}
		case versions:
			if len(s.bytes(6)) != 6 {
				s.bad = true
			}
		}
	}
}

func (s *scanner) next() byte {
	if len(s.rest) == 0 {
		s.bad = true
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

// big reads a number of n bytes.
func (s *scanner) big(n int) (v uint64) {
	for range n {
		v = v<<8 | uint64(s.next())
	}
	return v
}

// length reads a length: small ones are in the first byte, between low and high; b16 and b32 come
// before longer ones.
func (s *scanner) length(low, high, b16, b32 byte) int {
	switch b := s.next(); {
	case b >= low && b <= high:
		return int(b - low)
	case b == b16:
		return int(s.big(2))
	case b == b32:
		return int(s.big(4))
	}
	s.bad = true
	return 0
}

// bytes reads a text or bytes, which memberlist's encoding does not tell apart, or nothing.
func (s *scanner) bytes(most int) []byte {
	if len(s.rest) == 0 {
		s.bad = true
		return nil
	}
	var n int
	switch s.rest[0] {
	case 0xc0:
		s.next()
		return nil
	case 0xc4, 0xd9:
		s.next()
		n = int(s.next())
	case 0xc5, 0xc6:
		n = s.length(1, 0, 0xc5, 0xc6)
	default:
		n = s.length(0xa0, 0xbf, 0xda, 0xdb)
	}
	if s.bad || n > most || n > len(s.rest) {
		s.bad = true
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

func (s *scanner) number(most uint64) (v uint64) {
	switch b := s.next(); {
	case b <= 0x7f:
		v = uint64(b)
	case b >= 0xcc && b <= 0xcf:
		v = s.big(1 << (b - 0xcc))
	case b >= 0xd0 && b <= 0xd3:
		size := 1 << (b - 0xd0)
		if v = s.big(size); v>>(8*size-1) != 0 {
			s.bad = true // negative
		}
	default:
		s.bad = true
	}
	s.bad = s.bad || v > most
	return v
}
