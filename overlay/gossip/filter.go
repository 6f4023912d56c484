package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"swarm/overlay/gossip/envelope"
)

// These constants are the first bytes of memberlist messages. The first byte is the type of the
// message, and the filter lets only these types pass. memberlist has more types (state of the
// application, compressed and encrypted messages, labels), but this program never sends them.
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
	msgChecked      = 12 // a checksum, and a message after it
	msgError        = 13
)

// errNotAllowed: the message has a type, field or form that this program does not send.
var errNotAllowed = errors.New("not a message that gossip sends")

// kind is the type of the value of a field.
type kind byte

const (
	number kind = iota
	text
	flag
	address          // 4 or 16 bytes
	versions         // the protocol versions of a node, 6 bytes
	deadIncarnation  // in a claim that a node is suspect or dead
	aliveIncarnation // in a claim that a node is alive, or in an exchange of state; see admitStream
)

// maxClockSkew is how far the clocks of two hosts may differ, in seconds.
const maxClockSkew = 3600

// incarnation reads an incarnation and checks that it is not above a limit. The incarnation of a
// node is a number of 32 bits. memberlist uses it to order the claims about the node: the claim
// with the highest number wins. If a node hears a false claim that it is dead, it objects: it
// claims that it is alive, with the next number. There is no next number after 1<<32-1, so without
// a limit any member could declare a node dead for ever.
//
// The limit for a claim that a node is suspect or dead is the present time in seconds since 1970.
// True claims are far below it: they have the incarnation of the node, which grows by one with each
// restart of the node, with each renewal of its certificate and with each objection.
//
// A false claim may use the limit itself. The objection then has a number above that limit, and
// must pass on all hosts. So the limit for a claim that a node is alive is higher by maxClockSkew.
// Only the node itself can use this space, because it signs its incarnation. After such an
// objection, true claims that the node is dead are above their limit too. They pass again when the
// clock has reached their number, which takes about a second.
func (s *scanner) incarnation(k kind) {
	limit := s.deadLimit()
	if k == aliveIncarnation {
		limit += maxClockSkew
	}
	s.claim.incarnation = s.number(limit)
}

// deadLimit returns the limit for a claim that a node is suspect or dead. It is low enough that the
// limit for an objection stays in 32 bits after the year 2105 too.
func (s *scanner) deadLimit() uint64 { return min(s.clock, 1<<32-1-2*maxClockSkew) }

// claim is what a message says about a node that it calls alive.
type claim struct {
	node        []byte
	incarnation uint64
	// meta is the statement of the node. It is a part of the message, so a caller that writes to it
	// changes the message.
	meta []byte
	// state is the state of the node in an exchange of state, and stateAlive in other messages.
	state uint64
}

// stateAlive is memberlist's number of that state.
const stateAlive = 0

// field is the kind of a field. max is the largest number that it may have, or the greatest length
// of a text in bytes. Other kinds do not use max.
type field struct {
	kind kind
	max  uint64
}

var (
	nodeName    = field{text, envelope.MaxID}
	uint32Field = field{number, 1<<32 - 1}
	uint16Field = field{number, 1<<16 - 1}
)

// messages lists the fields that each message may have. The filter checks every message against
// this list before the decoders of memberlist see it. These decoders are not safe: they allocate
// the length that a header announces, and index into arrays that may be too short.
var messages = map[byte]map[string]field{
	msgPing: {"SeqNo": uint32Field, "Node": nodeName, "SourceAddr": {address, 0}, "SourcePort": uint16Field, "SourceNode": nodeName},
	msgIndirectPing: {
		"SeqNo": uint32Field, "Target": {address, 0}, "Port": uint16Field, "Node": nodeName, "Nack": {flag, 0},
		"SourceAddr": {address, 0}, "SourcePort": uint16Field, "SourceNode": nodeName,
	},
	msgAck:     {"SeqNo": uint32Field, "Payload": {text, 0}},
	msgNack:    {"SeqNo": uint32Field},
	msgSuspect: {"Incarnation": {deadIncarnation, 0}, "Node": nodeName, "From": nodeName},
	msgDead:    {"Incarnation": {deadIncarnation, 0}, "Node": nodeName, "From": nodeName},
	msgAlive: {
		"Incarnation": {aliveIncarnation, 0}, "Node": nodeName, "Addr": {address, 0}, "Port": uint16Field, "Meta": {text, 512}, "Vsn": {versions, 0},
	},
	msgError: {"Error": {text, 1024}},
}

var (
	// pushPullHeader has the fields of the header of an exchange of state. After the header the
	// message has one entry (nodeState) for each of the Nodes that the header announces, and
	// nothing else.
	pushPullHeader = map[string]field{"Nodes": {number, envelope.MaxMessage / 32}, "UserStateLen": {number, 0}, "Join": {flag, 0}}
	nodeState      = map[string]field{
		"Name": nodeName, "Addr": {address, 0}, "Port": uint16Field, "Meta": {text, 512}, "Incarnation": {aliveIncarnation, 0},
		"State": {number, 3}, "Vsn": {versions, 0},
	}
)

// withoutChecksum returns a packet without the checksum that memberlist writes before it. The
// envelope protects the packet better, and a packet with a checksum could not be changed.
func withoutChecksum(b []byte) []byte {
	if len(b) >= 5 && b[0] == msgChecked {
		return b[5:]
	}
	return b
}

// admitPacket returns an error if memberlist must not see a packet, which has no checksum. It calls
// alive for each claim that a node is alive, and returns its error.
func admitPacket(b []byte, alive func(claim) error) error {
	if len(b) < 2 || b[0] != msgCompound {
		return admitMessage(b, alive)
	}
	n, b := int(b[1]), b[2:]
	if len(b) < 2*n {
		return errNotAllowed
	}
	sizes, b := b[:2*n], b[2*n:]
	for ; len(sizes) > 0; sizes = sizes[2:] {
		size := int(binary.BigEndian.Uint16(sizes))
		if size > len(b) {
			return errNotAllowed
		}
		if err := admitMessage(b[:size], alive); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// admitMessage checks one message of a packet.
func admitMessage(b []byte, alive func(claim) error) error {
	if len(b) == 0 || b[0] == msgError {
		return errNotAllowed
	}
	return admitFields(b, alive)
}

// admitFields checks the type and the fields of a message.
func admitFields(b []byte, alive func(claim) error) error {
	fields, ok := messages[b[0]]
	if !ok {
		return fmt.Errorf("%w: type %d", errNotAllowed, b[0])
	}
	s := newScanner(b[1:])
	if s.fields(fields); s.bad || len(s.rest) > 0 {
		return fmt.Errorf("%w: malformed message of type %d", errNotAllowed, b[0])
	}
	if b[0] == msgAlive {
		return alive(s.claim)
	}
	return nil
}

// admitStream returns an error if memberlist must not see a message of a stream. It calls alive for
// each claim that a node is alive, and returns its error.
func admitStream(b []byte, alive func(claim) error) error {
	if len(b) == 0 {
		return errNotAllowed
	}
	switch b[0] {
	case msgPing, msgAck, msgError:
		return admitFields(b, alive)
	case msgPushPull:
	default:
		return fmt.Errorf("%w: type %d on a stream", errNotAllowed, b[0])
	}
	s := newScanner(b[1:])
	s.fields(pushPullHeader)
	for n := s.nodes; n > 0 && !s.bad; n-- {
		if s.fields(nodeState); s.bad {
			break
		}
		if s.claim.state != stateAlive {
			s.bad = s.claim.incarnation > s.deadLimit()
		} else if err := alive(s.claim); err != nil {
			return err
		}
	}
	if s.bad || len(s.rest) > 0 {
		return fmt.Errorf("%w: malformed exchange of state", errNotAllowed)
	}
	return nil
}

// maxFields is at least the number of fields of each message.
const maxFields = 8

// scanner reads the subset of msgpack that memberlist writes. It does not allocate.
type scanner struct {
	rest  []byte // the bytes that have not been read yet
	bad   bool   // something that does not belong to the subset was found
	nodes uint64 // the value of the field Nodes
	claim claim  // the fields of the last message or node that was read
	clock uint64 // the time of this host, in seconds since 1970
}

// newScanner returns a scanner of b.
func newScanner(b []byte) scanner {
	return scanner{rest: b, clock: uint64(max(0, time.Now().Unix()))}
}

// fields reads a map that has some of the allowed fields, each at most once.
func (s *scanner) fields(allowed map[string]field) {
	n := s.length(0x80, 0x8f, 0xde, 0xdf)
	var keys [maxFields][]byte
	if n > len(allowed) || n > len(keys) {
		s.bad = true
	}
	s.claim = claim{}
	for i := 0; i < n && !s.bad; i++ {
		key := s.bytes(32)
		f, ok := allowed[string(key)]
		if !ok || slices.ContainsFunc(keys[:i], func(k []byte) bool { return bytes.Equal(k, key) }) {
			s.bad = true
			return
		}
		keys[i] = key
		switch f.kind {
		case number:
			v := s.number(f.max)
			switch string(key) {
			case "Nodes":
				s.nodes = v
			case "State":
				s.claim.state = v
			}
		case deadIncarnation, aliveIncarnation:
			s.incarnation(f.kind)
		case text:
			v := s.bytes(int(f.max))
			switch string(key) {
			case "Node", "Name":
				s.claim.node = v
			case "Meta":
				s.claim.meta = v
			}
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

// next reads one byte.
func (s *scanner) next() byte {
	if len(s.rest) == 0 {
		s.bad = true
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

// big reads a big-endian number of n bytes.
func (s *scanner) big(n int) (v uint64) {
	for range n {
		v = v<<8 | uint64(s.next())
	}
	return v
}

// length reads a length. If the first byte is between low and high, the length is the first byte
// minus low. The bytes b16 and b32 announce a length of 16 and 32 bits.
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

// bytes reads a text or a byte string of at most limit bytes. The encoding of memberlist does not
// distinguish the two. The result is nil for the value nil.
func (s *scanner) bytes(limit int) []byte {
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
	if s.bad || n > limit || n > len(s.rest) {
		s.bad = true
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

// number reads a number that is not negative and at most limit.
func (s *scanner) number(limit uint64) (v uint64) {
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
	s.bad = s.bad || v > limit
	return v
}
