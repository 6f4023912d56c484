package gossip

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"swarm/overlay/gossip/envelope"
)

// statement is what a node says about itself: its tags, and whether it leaves. It travels as the
// node's metadata in memberlist. The node signs it together with its id and address, so a member
// that passes it on cannot change it.
//
//	signature's length, signature with zeros up to maxSignature bytes,
//	then the body: incarnation (4 bytes), time (8 bytes), flags,
//	then tags: each name and value with its length before it
//
// memberlist raises the incarnation of its node without asking for new metadata. So memberlist
// holds the statement of its own node with incarnation 0, and the guard signs the statement again
// in each message that leaves this node; see signClaim.
type statement struct {
	// incarnation is memberlist's number of the claim that has this statement. Without it in the
	// signed part, another member could repeat the statement of a dead node with higher numbers,
	// and all members would believe that the node is alive.
	incarnation uint32
	// issued is when the node made the statement, by the clock of the node, in ns since 1970. It
	// orders the statements of a node.
	issued uint64
	// leaving is whether the statement is a goodbye.
	leaving bool
	tags    map[string]string
}

const (
	statementDomain = "swarm gossip statement"
	flagLeaving     = 1
	// maxSignature is the greatest length of a signature in bytes. A statement has this space for
	// each signature, so that the incarnation can be replaced in an encoded message.
	maxSignature = 72
	// bodyAt is where the body begins in the metadata of a node.
	bodyAt = 1 + maxSignature
)

// sign encodes and signs the statement of the node with that id and address. It returns an error if
// the statement is longer than memberlist permits.
func (s statement) sign(key *ecdsa.PrivateKey, id string, addr netip.AddrPort) ([]byte, error) {
	meta := binary.BigEndian.AppendUint32(make([]byte, bodyAt), s.incarnation)
	meta = binary.BigEndian.AppendUint64(meta, s.issued)
	if s.leaving {
		meta = append(meta, flagLeaving)
	} else {
		meta = append(meta, 0)
	}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		for _, text := range []string{name, s.tags[name]} {
			if len(text) > 255 {
				return nil, fmt.Errorf("gossip tag %s: %d bytes, want at most 255", name, len(text))
			}
			meta = append(append(meta, byte(len(text))), text...)
		}
	}
	if len(meta) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("gossip tags: %d bytes with the signature, want at most %d", len(meta), memberlist.MetaMaxSize)
	}
	return meta, signBody(meta, key, id, addr)
}

// signBody signs the body of a statement, and stores the signature before it.
func signBody(meta []byte, key *ecdsa.PrivateKey, id string, addr netip.AddrPort) error {
	sig, err := envelope.Sign(key, statementDomain, []byte(id), []byte(addr.String()), meta[bodyAt:])
	if err != nil {
		return err
	}
	clear(meta[:bodyAt])
	meta[0] = byte(copy(meta[1:bodyAt], sig))
	return nil
}

// incarnationOf returns the incarnation in the statement of a node. ok is false if the statement is
// too short to have one.
func incarnationOf(meta []byte) (n uint32, ok bool) {
	if len(meta) < bodyAt+4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(meta[bodyAt:]), true
}

// signClaim signs the claim of this node that it is alive, which is part of a message to another
// member. It stores the incarnation of the claim in the statement and replaces the signature. It
// ignores claims about other nodes, which those nodes have signed.
func (g *Gossip) signClaim(c claim) error {
	if _, ok := incarnationOf(c.meta); !ok || string(c.node) != g.self {
		return nil
	}
	binary.BigEndian.PutUint32(c.meta[bodyAt:], uint32(c.incarnation))
	return signBody(c.meta, g.signingKey(), g.self, g.addr)
}

// checkClaim returns an error if the incarnation of a received claim is not the one in the
// statement. Whether the statement is signed is checked later, by handleAlive.
//
// memberlist compares a claim about this node with the statement that it holds. So checkClaim
// replaces the present statement of this node, in a message that has passed through another member,
// by the one that memberlist holds. Any other claim about this node makes memberlist object.
func (g *Gossip) checkClaim(c claim) error {
	n, ok := incarnationOf(c.meta)
	if !ok || uint64(n) != c.incarnation {
		// The text has no names or numbers, so that the lines in the log are sampled.
		return fmt.Errorf("%w: a node is called alive with an incarnation that it has not signed", errNotAllowed)
	}
	if string(c.node) != g.self {
		return nil
	}
	held := delegate{g}.NodeMeta(memberlist.MetaMaxSize)
	signed := claim{node: c.node, incarnation: c.incarnation, meta: bytes.Clone(held)}
	if err := g.signClaim(signed); err == nil && bytes.Equal(signed.meta, c.meta) {
		copy(c.meta, held)
	}
	return nil
}

// parseStatement decodes a node's metadata. It does not verify the signature.
func parseStatement(meta []byte) (s statement, sig, body []byte, err error) {
	malformed := fmt.Errorf("malformed statement of %d bytes", len(meta))
	if len(meta) < bodyAt+13 || meta[0] > maxSignature {
		return s, nil, nil, malformed
	}
	sig, body = meta[1:1+meta[0]], meta[bodyAt:]
	s = statement{
		incarnation: binary.BigEndian.Uint32(body), issued: binary.BigEndian.Uint64(body[4:]),
		leaving: body[12]&flagLeaving != 0, tags: map[string]string{},
	}
	var texts []string
	for rest := body[13:]; len(rest) > 0; {
		n := 1 + int(rest[0])
		if n > len(rest) {
			return s, nil, nil, malformed
		}
		texts = append(texts, string(rest[1:n]))
		rest = rest[n:]
	}
	if len(texts)%2 != 0 {
		return s, nil, nil, malformed
	}
	for pair := range slices.Chunk(texts, 2) {
		s.tags[pair[0]] = pair[1]
	}
	return s, sig, body, nil
}

// readStatement decodes and verifies the metadata of the node with that id and address. If trust
// has AnyKey, the signature is not verified and a goodbye is ignored.
func readStatement(meta []byte, id string, addr netip.AddrPort, trust envelope.Trust) (statement, error) {
	s, sig, body, err := parseStatement(meta)
	switch {
	case err != nil:
		return s, err
	case tooFarAhead(s.issued):
		return s, fmt.Errorf("the statement is dated more than %d seconds in the future", maxClockSkew)
	case trust.AnyKey:
		s.leaving = false
		return s, nil
	case !envelope.Verify(trust.Keys, sig, statementDomain, []byte(id), []byte(addr.String()), body):
		return s, fmt.Errorf("the statement is not signed with a key of the node")
	}
	return s, nil
}

// tooFarAhead reports whether the time of a statement is further in the future than maxClockSkew.
// Such a statement is rejected, because a statement replaces only older ones: the node could never
// replace a statement with the last possible time.
func tooFarAhead(issued uint64) bool {
	return issued > uint64(time.Now().Add(maxClockSkew*time.Second).UnixNano())
}

// nextIssued returns the time for a statement that replaces a statement with the time issued. The
// result is later than issued even if the clock was set back. If the former statement is rejected
// for its time, the result is the present time.
func nextIssued(issued uint64) uint64 {
	now := uint64(time.Now().UnixNano())
	if tooFarAhead(issued) {
		return now
	}
	return max(now, issued+1)
}
