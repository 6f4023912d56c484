package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
)

// KeySize is that of AES-256.
const KeySize = 32

// KeyID names a key without telling anything of it: the first eight bytes of a hash of it.
type KeyID [8]byte

// Key is a data key.
type Key [KeySize]byte

// NewKey makes a random key.
func NewKey() Key { return Key(ident.RandomBytes(KeySize)) }

// ID is derived from the key, so a key can never be filed under a wrong name.
func (k Key) ID() KeyID {
	sum := sha256.Sum256(append([]byte("swarm key id v1\x00"), k[:]...))
	return KeyID(sum[:])
}

// String keeps keys out of logs and messages.
func (k Key) String() string { return fmt.Sprintf("key %x", k.ID()) }

// Format keeps keys out of every verb of fmt.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// Ring is the keys that a store may meet: the first seals, all of them open. It is immutable and safe for concurrent use.
type Ring struct{ keys []Key }

// NewRing makes a ring that seals with current and also opens what older keys sealed.
func NewRing(current Key, older ...Key) *Ring {
	keys := []Key{current}
	for _, k := range older {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return &Ring{keys: keys}
}

// Current is the id of the key that seals.
func (r *Ring) Current() KeyID { return r.keys[0].ID() }

// Rotate returns a ring that seals with a fresh key and opens all that this one opens.
func (r *Ring) Rotate() *Ring { return NewRing(NewKey(), r.keys...) }

// OnlyCurrent returns the ring without its older keys, for when nothing sealed by them is left.
func (r *Ring) OnlyCurrent() *Ring { return NewRing(r.keys[0]) }

// Len is the number of keys.
func (r *Ring) Len() int { return len(r.keys) }

func (r *Ring) find(id KeyID) (Key, error) {
	for _, k := range r.keys {
		if k.ID() == id {
			return k, nil
		}
	}
	return Key{}, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("open sealed data: key %x is not in the key file; was it restored from another node?", id))
}

const (
	magicEntry  = 0xE1 // also the format's version
	nonceSize   = 24
	entryHeader = 1 + len(KeyID{}) + nonceSize

	// Overhead is how much longer the sealed form is than the plain one.
	Overhead = entryHeader + 16
)

// Seal encrypts one record. aad is bound to it and must be the same at Open: pass what the record must not be moved away
// from, such as its index. The result is a fresh slice.
func (r *Ring) Seal(plain, aad []byte) []byte {
	key := r.keys[0]
	id := key.ID()
	out := make([]byte, entryHeader, entryHeader+len(plain)+16)
	out[0] = magicEntry
	copy(out[1:], id[:])
	nonce := out[1+len(id) : entryHeader]
	copy(nonce, ident.RandomBytes(nonceSize))
	return extend(key, nonce).Seal(out, nonce[nonceSize-12:], plain, bind(out[:entryHeader], aad))
}

// Open decrypts what Seal made. errdefs.ErrNotFound: the key is not in the ring. errdefs.ErrDataLoss: it was changed, cut,
// or sealed with another aad.
func (r *Ring) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, damaged("%d bytes are too short for a sealed record", len(sealed))
	}
	if sealed[0] != magicEntry {
		return nil, damaged("it does not start as a sealed record does (%#x)", sealed[0])
	}
	key, err := r.find(KeyID(sealed[1:]))
	if err != nil {
		return nil, err
	}
	header := sealed[:entryHeader]
	nonce := header[entryHeader-nonceSize:]
	plain, err := extend(key, nonce).Open(nil, nonce[nonceSize-12:], sealed[entryHeader:], bind(header, aad))
	if err != nil {
		return nil, damaged("it was changed, or belongs elsewhere")
	}
	return plain, nil
}

// bind makes the additional data of a record: its header's fixed part, with its length so that the border to aad is
// unambiguous, then aad.
func bind(header, aad []byte) []byte {
	fixed := header[:1+len(KeyID{})]
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(fixed)+len(aad)), uint16(len(fixed)))
	return append(append(out, fixed...), aad...)
}

func damaged(format string, args ...any) error {
	return errdefs.ErrDataLoss.WithMessage("open sealed data: " + fmt.Sprintf(format, args...))
}
