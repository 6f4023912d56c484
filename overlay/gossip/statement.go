package gossip

import (
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
//	signature's length, signature, time (8 bytes), flags,
//	then tags: each name and value with its length before it
type statement struct {
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
)

// sign encodes and signs the statement of the node with that id and address. It returns an error if
// the statement is longer than memberlist permits.
func (s statement) sign(key *ecdsa.PrivateKey, id string, addr netip.AddrPort) ([]byte, error) {
	body := binary.BigEndian.AppendUint64(nil, s.issued)
	body = append(body, 0)
	if s.leaving {
		body[8] |= flagLeaving
	}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		for _, text := range []string{name, s.tags[name]} {
			if len(text) > 255 {
				return nil, fmt.Errorf("gossip tag %s: %d bytes, want at most 255", name, len(text))
			}
			body = append(append(body, byte(len(text))), text...)
		}
	}
	sig, err := envelope.Sign(key, statementDomain, []byte(id), []byte(addr.String()), body)
	if err != nil {
		return nil, err
	}
	meta := append(append([]byte{byte(len(sig))}, sig...), body...)
	if len(meta) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("gossip tags: %d bytes with the signature, want at most %d", len(meta), memberlist.MetaMaxSize)
	}
	return meta, nil
}

// parseStatement decodes a node's metadata. It does not verify the signature.
func parseStatement(meta []byte) (s statement, sig, body []byte, err error) {
	malformed := fmt.Errorf("malformed statement of %d bytes", len(meta))
	if len(meta) < 1 {
		return s, nil, nil, malformed
	}
	end := 1 + int(meta[0]) // where the signature ends
	if len(meta) < end+9 {
		return s, nil, nil, malformed
	}
	sig, body = meta[1:end], meta[end:]
	s = statement{issued: binary.BigEndian.Uint64(body), leaving: body[8]&flagLeaving != 0, tags: map[string]string{}}
	var texts []string
	for rest := body[9:]; len(rest) > 0; {
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
