package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/chacha20poly1305"

	"swarm/internal/ident"
)

// KeySize is the size of all keys, in bytes.
const KeySize = 32

// KeyID identifies a key without revealing it: the first eight bytes of a hash of the key.
type KeyID [8]byte

// Key is a data key.
type Key [KeySize]byte

// NewKey makes a random key.
func NewKey() Key { return Key(ident.RandomBytes(KeySize)) }

// ID returns the id of the key. It is computed from the key, so a key cannot have a wrong id.
func (k Key) ID() KeyID {
	sum := sha256.Sum256(append([]byte("swarm key id v1\x00"), k[:]...))
	return KeyID(sum[:])
}

// String returns the id of the key, so that logs and error texts never contain the key itself.
func (k Key) String() string { return fmt.Sprintf("key %x", k.ID()) }

// Format implements fmt.Formatter like String, so that no verb of fmt prints the key.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// Ring holds the data keys of a store. It encrypts with the first key, and decrypts with every key.
// A Ring is immutable and safe for concurrent use.
type Ring struct{ keys []Key }

// NewRing makes a ring that encrypts with current and decrypts with current and the older keys.
func NewRing(current Key, older ...Key) *Ring {
	keys := []Key{current}
	for _, k := range older {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return &Ring{keys: keys}
}

// Current returns the id of the key that encrypts.
func (r *Ring) Current() KeyID { return r.keys[0].ID() }

// Rotate returns a ring that encrypts with a new key and decrypts everything that this ring
// decrypts.
func (r *Ring) Rotate() *Ring { return NewRing(NewKey(), r.keys...) }

// OnlyCurrent returns the ring without its older keys. Use it when no data that they encrypted is
// left.
func (r *Ring) OnlyCurrent() *Ring { return NewRing(r.keys[0]) }

// Len returns the number of keys.
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
	magicRecord  = 0xE2 // also the version of the format
	nonceSize    = chacha20poly1305.NonceSizeX
	recordHeader = 1 + len(KeyID{}) + nonceSize

	// Overhead is the difference in bytes between the sealed and the plain form of a record.
	Overhead = recordHeader + 16
)

// Seal encrypts one record and returns a new slice. aad is data that is authenticated with the
// record but not stored, and Open needs the same aad. Pass the position of the record, such as its
// index: if somebody moves the record to another position, Open then fails.
func (r *Ring) Seal(plain, aad []byte) []byte {
	key := r.keys[0]
	id := key.ID()
	out := make([]byte, recordHeader, recordHeader+len(plain)+16)
	out[0] = magicRecord
	copy(out[1:], id[:])
	nonce := out[1+len(id) : recordHeader]
	copy(nonce, ident.RandomBytes(nonceSize))
	return recordAEAD(key).Seal(out, nonce, plain, bind(out[:recordHeader], aad))
}

// Open decrypts the output of Seal. It returns errdefs.ErrNotFound if the ring lacks the key, and
// errdefs.ErrDataLoss if the record was changed, cut, or sealed with another aad.
func (r *Ring) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, damaged("%d bytes are too short for a sealed record", len(sealed))
	}
	if sealed[0] != magicRecord {
		return nil, damaged("it does not start as a sealed record does (%#x)", sealed[0])
	}
	key, err := r.find(KeyID(sealed[1:]))
	if err != nil {
		return nil, err
	}
	header := sealed[:recordHeader]
	nonce := header[recordHeader-nonceSize:]
	plain, err := recordAEAD(key).Open(nil, nonce, sealed[recordHeader:], bind(header, aad))
	if err != nil {
		return nil, damaged("it was changed, or belongs elsewhere")
	}
	return plain, nil
}

// bind returns the data that is authenticated with a record: the length of the next two, the magic
// byte and the key id of its header, and then aad. With the length, no other header and aad give
// the same bytes.
func bind(header, aad []byte) []byte {
	fixed := header[:1+len(KeyID{})]
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(fixed)+len(aad)), uint16(len(fixed)))
	return append(append(out, fixed...), aad...)
}

func damaged(format string, args ...any) error {
	return errdefs.ErrDataLoss.WithMessage("open sealed data: " + fmt.Sprintf(format, args...))
}
