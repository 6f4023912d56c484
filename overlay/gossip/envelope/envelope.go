// Package envelope seals what members send each other by gossip, and opens it. Memberlist's own
// encryption proves only that a sender had the cluster's gossip key, which every member has and a
// removed one has had. An envelope is encrypted with that key and, inside, signed with the key of
// the sender's certificate.
//
// It does no I/O, owns no goroutine, and refuses to look into what it carries: see package gossip
// for that. Caller: package gossip, and tests that play an attacker. All types are safe for
// concurrent use.
//
//	byte       0     1..4     5..16    17..
//	envelope   'S'   key id   nonce    AES-256-GCM of: signature's length, signature, signed part
//	signed     kind, length of the sender's id, id, session (8 bytes), sequence (8 bytes), payload
package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// Kind says what an envelope carries.
type Kind byte

// The kinds. A payload that was sealed as one kind does not open as another.
const (
	// Packet is a UDP packet.
	Packet Kind = 1 + iota
	// More is a part of a message on a stream, with others to follow.
	More
	// Last is the last part of a message on a stream.
	Last
)

const (
	magic    = 'S' // Distinct from the first byte of a VXLAN packet, which hosts send to try this port.
	idSize   = 4
	nonceLen = 12
	head     = 1 + idSize + nonceLen
	tagLen   = 16
	// maxSignature is the size of the longest ECDSA signature of P-256 in DER.
	maxSignature = 72
	// MaxID is the length of the longest sender's id.
	MaxID = 64
	fixed = 1 + 1 + 8 + 8 // of the signed part, besides the id and the payload
)

// Overhead is how many bytes an envelope adds at most to the payload of a sender with an id of that
// length.
func Overhead(idLen int) int { return head + 1 + maxSignature + fixed + idLen + tagLen }

// Ring holds the gossip keys of a cluster.
type Ring struct{ keys atomic.Pointer[[]ringKey] }

type ringKey struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// Set replaces the keys, of 32 bytes each. The first encrypts, each decrypts.
func (r *Ring) Set(keys [][]byte) error {
	if len(keys) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("gossip is never unencrypted: no key given")
	}
	next := make([]ringKey, 0, len(keys))
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return fmt.Errorf("gossip key: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return fmt.Errorf("gossip key: %w", err)
		}
		sum := sha256.Sum256(append([]byte("swarm gossip key"), key...))
		next = append(next, ringKey{[idSize]byte(sum[:idSize]), aead})
	}
	r.keys.Store(&next)
	return nil
}

// with finds the key that an envelope names.
func (r *Ring) with(id []byte) (cipher.AEAD, bool) {
	for _, k := range *r.keys.Load() {
		if bytes.Equal(k.id[:], id) {
			return k.aead, true
		}
	}
	return nil, false
}

// Sealer seals what one member sends.
type Sealer struct {
	id      string
	ring    *Ring
	key     func() *ecdsa.PrivateKey
	session uint64
	// The last sequence numbers: receivers take each but once.
	packets, parts atomic.Uint64
}

// NewSealer returns a Sealer for the member with that id, of at most MaxID bytes. The ring must
// have been set. key gives the key to sign with, for each envelope anew.
func NewSealer(id string, ring *Ring, key func() *ecdsa.PrivateKey) *Sealer {
	var session [8]byte
	_, _ = rand.Read(session[:]) // It never fails.
	return &Sealer{id: id, ring: ring, key: key, session: binary.BigEndian.Uint64(session[:])}
}

// Packet seals the payload of a UDP packet.
func (s *Sealer) Packet(payload []byte) ([]byte, error) {
	return s.seal(nil, Packet, s.packets.Add(1), payload)
}

// seal appends an envelope to dst.
func (s *Sealer) seal(dst []byte, kind Kind, seq uint64, payload []byte) ([]byte, error) {
	key := &(*s.ring.keys.Load())[0]
	plain := make([]byte, 0, 1+maxSignature+fixed+len(s.id)+len(payload))
	plain = append(plain, make([]byte, 1+maxSignature)...)
	plain = append(plain, byte(kind), byte(len(s.id)))
	plain = append(plain, s.id...)
	plain = binary.BigEndian.AppendUint64(plain, s.session)
	plain = binary.BigEndian.AppendUint64(plain, seq)
	plain = append(plain, payload...)
	sig, err := sign(s.key(), plain[1+maxSignature:])
	if err != nil {
		return nil, err
	}
	// The signature ends where the signed part begins.
	plain = plain[maxSignature-len(sig):]
	plain[0] = byte(len(sig))
	copy(plain[1:], sig)

	if dst == nil {
		dst = make([]byte, 0, head+len(plain)+tagLen)
	}
	at := len(dst)
	dst = append(dst, magic)
	dst = append(dst, key.id[:]...)
	dst = append(dst, make([]byte, nonceLen)...)
	nonce := dst[at+1+idSize:]
	_, _ = rand.Read(nonce)
	return key.aead.Seal(dst, nonce, plain, dst[at:at+1+idSize]), nil
}

// envelopeDomain keeps signatures of envelopes apart from all others that are made with a node's
// key.
const envelopeDomain = "swarm gossip envelope"

func sign(key *ecdsa.PrivateKey, signed []byte) ([]byte, error) {
	return Sign(key, envelopeDomain, signed)
}

// Sign signs parts with a node's key. The domain says what for: no signature counts in another one.
func Sign(key *ecdsa.PrivateKey, domain string, parts ...[]byte) ([]byte, error) {
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest(domain, parts))
	if err != nil {
		return nil, fmt.Errorf("sign for gossip: %w", err)
	}
	return sig, nil
}

// Verify reports whether one of the keys has signed the parts.
func Verify(keys []*ecdsa.PublicKey, sig []byte, domain string, parts ...[]byte) bool {
	sum := digest(domain, parts)
	for _, key := range keys {
		if ecdsa.VerifyASN1(key, sum, sig) {
			return true
		}
	}
	return false
}

func digest(domain string, parts [][]byte) []byte {
	h := sha256.New()
	var size [4]byte
	h.Write([]byte(domain))
	for _, p := range parts {
		binary.BigEndian.PutUint32(size[:], uint32(len(p)))
		h.Write(size[:])
		h.Write(p)
	}
	return h.Sum(nil)
}
