// Package envelope encrypts and signs the messages that members send to each other by gossip, and
// decrypts and verifies them. The encryption of memberlist would not be enough. It proves only that
// the sender has the gossip key of the cluster, and every member and every removed member has this
// key. So an envelope is signed with the key of the sender's certificate, and then encrypted with
// the gossip key.
//
// The package does no I/O, has no goroutine, and does not read the payload; package gossip does.
// Its callers are package gossip, and tests that play an attacker. All types are safe for
// concurrent use.
//
//	byte       0     1..4     5..16    17..
//	envelope   'S'   key id   nonce    AES-256-GCM of: signature's length, signature, signed part
//	signed     kind, length of the sender's id, id, session (8 bytes), sequence (8 bytes), payload
package envelope

import (
	"bytes"
	"crypto"
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

// Kind is the kind of the payload of an envelope.
type Kind byte

// The kinds of payload. A payload that was sealed as one kind does not open as another.
const (
	// Packet is the payload of a UDP packet.
	Packet Kind = 1 + iota
	// More is a part of a message on a stream that is not the last one.
	More
	// Last is the last part of a message on a stream.
	Last
)

const (
	// magic differs from the first byte of a VXLAN packet, which hosts that want to join send to
	// this port.
	magic      = 'S'
	idSize     = 4
	nonceLen   = 12
	headerSize = 1 + idSize + nonceLen
	tagLen     = 16
	// maxSignature is the length of the longest ECDSA signature of P-256 in DER.
	maxSignature = 72
	// MaxID is the length of the longest node id, in bytes.
	MaxID = 64
	// fixedSize is the size of the signed part without the id and the payload.
	fixedSize = 1 + 1 + 8 + 8
)

// Overhead returns the greatest number of bytes that an envelope adds to a payload, if the id of
// the sender has idLen bytes.
func Overhead(idLen int) int { return headerSize + 1 + maxSignature + fixedSize + idLen + tagLen }

// Ring has the gossip keys of a cluster. Set must be called before the Ring is used.
type Ring struct{ keys atomic.Pointer[[]ringKey] }

type ringKey struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// Set replaces the keys, which have 32 bytes each. The first encrypts, each decrypts. It returns
// ErrInvalidArgument for no key or a key of another length.
func (r *Ring) Set(keys [][]byte) error {
	if len(keys) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("no gossip key given, and gossip is never sent unencrypted")
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

// find returns the key with that id.
func (r *Ring) find(id []byte) (cipher.AEAD, bool) {
	for _, k := range *r.keys.Load() {
		if bytes.Equal(k.id[:], id) {
			return k.aead, true
		}
	}
	return nil, false
}

// Sealer makes the envelopes of one member. Its session is a random number. It distinguishes the
// envelopes of this Sealer from those of earlier Sealers with the same id.
type Sealer struct {
	id      string
	ring    *Ring
	key     func() *ecdsa.PrivateKey
	session uint64
	// packets and parts are the last sequence numbers. Receivers accept each number once.
	packets, parts atomic.Uint64
}

// NewSealer returns a Sealer for the member with that id, of at most MaxID bytes. The ring must
// have been set. key returns the key to sign with and is called for each envelope.
func NewSealer(id string, ring *Ring, key func() *ecdsa.PrivateKey) *Sealer {
	var session [8]byte
	_, _ = rand.Read(session[:]) // crypto/rand.Read never fails.
	return &Sealer{id: id, ring: ring, key: key, session: binary.BigEndian.Uint64(session[:])}
}

// Packet seals the payload of a UDP packet.
func (s *Sealer) Packet(payload []byte) ([]byte, error) {
	return s.seal(nil, Packet, s.packets.Add(1), payload)
}

// seal appends an envelope to dst, which may be nil.
func (s *Sealer) seal(dst []byte, kind Kind, seq uint64, payload []byte) ([]byte, error) {
	key := &(*s.ring.keys.Load())[0]
	plain := make([]byte, 0, 1+maxSignature+fixedSize+len(s.id)+len(payload))
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
	// The signature may be shorter than maxSignature. It must end where the signed part begins.
	plain = plain[maxSignature-len(sig):]
	plain[0] = byte(len(sig))
	copy(plain[1:], sig)

	if dst == nil {
		dst = make([]byte, 0, headerSize+len(plain)+tagLen)
	}
	at := len(dst)
	dst = append(dst, magic)
	dst = append(dst, key.id[:]...)
	dst = append(dst, make([]byte, nonceLen)...)
	nonce := dst[at+1+idSize:]
	_, _ = rand.Read(nonce)
	return key.aead.Seal(dst, nonce, plain, dst[at:at+1+idSize]), nil
}

// envelopeDomain makes signatures of envelopes differ from all other signatures with a node's key.
const envelopeDomain = "swarm gossip envelope"

func sign(key *ecdsa.PrivateKey, signed []byte) ([]byte, error) {
	return Sign(key, envelopeDomain, signed)
}

// Sign signs the parts with a node's key. The domain names the purpose: a signature is not valid
// for another domain. The same arguments give the same signature.
func Sign(key *ecdsa.PrivateKey, domain string, parts ...[]byte) ([]byte, error) {
	sig, err := key.Sign(nil, digest(domain, parts), crypto.SHA256) // Without a source of chance: RFC 6979.
	if err != nil {
		return nil, fmt.Errorf("sign for gossip: %w", err)
	}
	return sig, nil
}

// Verify reports whether sig is a signature of the parts with one of the keys, for that domain.
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
