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

// statement is what a node says of itself, signed with its key. It travels as the node's metadata:
// whoever passes it on cannot change it, and the node's id and address are signed with it.
//
//	signature's length, signature, time (8 bytes), flags,
//	then tags: each name and value with its length before it
type statement struct {
	// made orders the statements of a node. It is the time at which the node made it, by the node's
	// clock, in nanoseconds.
	made uint64
	// leaving: the node says goodbye.
	leaving bool
	tags    map[string]string
}

const (
	statementDomain = "swarm gossip statement"
	flagLeaving     = 1
)

// sign words the statement of the node with that id and address.
func (s statement) sign(key *ecdsa.PrivateKey, id string, addr netip.AddrPort) ([]byte, error) {
	body := binary.BigEndian.AppendUint64(nil, s.made)
	body = append(body, 0)
	if s.leaving {
		body[8] |= flagLeaving
	}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		for _, text := range []string{name, s.tags[name]} {
			if len(text) > 255 {
				return nil, fmt.Errorf("gossip tag %s: %d bytes, more than 255", name, len(text))
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
		return nil, fmt.Errorf("gossip tags: %d bytes with the signature, more than %d", len(meta), memberlist.MetaMaxSize)
	}
	return meta, nil
}

// parseStatement reads a node's metadata. It does not look at the signature.
func parseStatement(meta []byte) (s statement, sig, body []byte, err error) {
	malformed := fmt.Errorf("malformed statement of %d bytes", len(meta))
	if len(meta) < 1 {
		return s, nil, nil, malformed
	}
	end := 1 + int(meta[0]) // of the signature
	if len(meta) < end+9 {
		return s, nil, nil, malformed
	}
	sig, body = meta[1:end], meta[end:]
	s = statement{made: binary.BigEndian.Uint64(body), leaving: body[8]&flagLeaving != 0, tags: map[string]string{}}
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

// readStatement reads and verifies the metadata of the node with that id and address. With blind
// trust it is not verified, and a goodbye does not count.
func readStatement(meta []byte, id string, addr netip.AddrPort, trust envelope.Trust) (statement, error) {
	s, sig, body, err := parseStatement(meta)
	switch {
	case err != nil:
		return s, err
	case early(s.made):
		return s, fmt.Errorf("statement is dated more than %d seconds ahead", claimLead)
	case trust.Blind:
		s.leaving = false
		return s, nil
	case !envelope.Verify(trust.Keys, sig, statementDomain, []byte(id), []byte(addr.String()), body):
		return s, fmt.Errorf("statement is not signed with the node's key")
	}
	return s, nil
}

// early reports whether a statement is dated further ahead than clocks of hosts may differ. Nobody
// hears it: the node could say nothing later than the last time that there is.
func early(made uint64) bool {
	return made > uint64(time.Now().Add(claimLead*time.Second).UnixNano())
}

// later is the time for the next statement, later than an earlier one also when the clock was set
// back. An earlier one that nobody hears does not count.
func later(made uint64) uint64 {
	now := uint64(time.Now().UnixNano())
	if early(made) {
		return now
	}
	return max(now, made+1)
}
