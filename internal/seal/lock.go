package seal

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	unlockPrefix = "SWMKEY-1-"
	pemRing      = "SWARM DATA KEYS"
	lockHeader   = "Locked"
	maxRing      = 64 // keys in one file
)

var (
	// ErrLocked means that the key file is encrypted and that the caller gave no unlock key.
	ErrLocked = errdefs.ErrFailedPrecondition.WithMessage("swarm is locked: run `swarm unlock` with the unlock key")
	// ErrWrongUnlockKey means that another unlock key encrypted the key file, or that the header of
	// the file was changed.
	ErrWrongUnlockKey = errdefs.ErrInvalidArgument.WithMessage("unlock key does not open the keys of this node: use the newest one, which `swarm unlock-key` prints on an unlocked manager")
)

// UnlockKey encrypts the data keys in the key file of a locked cluster (autolock). Only the
// operator has it. Its text form has the shape of Docker's unlock keys.
type UnlockKey struct{ key Key }

// NewUnlockKey makes a random unlock key.
func NewUnlockKey() UnlockKey { return UnlockKey{NewKey()} }

// Text returns the key in the form that operators store and type. It is a secret. UnlockKey has no
// method String, so that no log prints it by accident.
func (u UnlockKey) Text() string {
	return unlockPrefix + base64.RawStdEncoding.EncodeToString(u.key[:])
}

// ParseUnlockKey parses the output of Text. It returns errdefs.ErrInvalidArgument if the text is
// malformed. The error text never contains the key.
func ParseUnlockKey(s string) (UnlockKey, error) {
	s = strings.TrimSpace(s)
	encoded, ok := strings.CutPrefix(s, unlockPrefix)
	if !ok {
		return UnlockKey{}, badUnlock("does not start with " + unlockPrefix)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") { // the decoder ignores line ends
		return UnlockKey{}, badUnlock("is not in base64: part of it is missing or mistyped")
	}
	if len(raw) != KeySize {
		return UnlockKey{}, badUnlock(fmt.Sprintf("holds %d bytes, not %d: part of it is missing or doubled", len(raw), KeySize))
	}
	return UnlockKey{Key(raw)}, nil
}

func badUnlock(why string) error {
	return errdefs.ErrInvalidArgument.WithMessage("unlock key " + why + "; `swarm unlock-key` on an unlocked manager prints it")
}

// Encode returns the ring in the form of the key file. If lock is nil, the keys are not encrypted,
// and only the mode of the file protects them. Otherwise lock encrypts them.
func (r *Ring) Encode(lock *UnlockKey) []byte {
	var raw []byte
	for _, k := range r.keys {
		raw = append(raw, k[:]...)
	}
	block := &pem.Block{Type: pemRing, Headers: map[string]string{lockHeader: "no"}, Bytes: raw}
	if lock != nil {
		block.Headers[lockHeader] = "yes"
		block.Bytes = NewRing(lock.key).Seal(raw, []byte(pemRing))
	}
	return pem.EncodeToMemory(block)
}

// ParseRing parses the output of Encode. If the keys are not encrypted, it ignores lock. ParseRing
// returns ErrLocked if they are encrypted and lock is nil, ErrWrongUnlockKey if another key
// encrypted it, and errdefs.ErrDataLoss if the file is damaged.
func ParseRing(data []byte, lock *UnlockKey) (*Ring, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemRing || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, errdefs.ErrDataLoss.WithMessage("key file is damaged: it is not one PEM block of data keys")
	}
	raw := block.Bytes
	switch block.Headers[lockHeader] {
	case "no":
	case "yes":
		if lock == nil {
			return nil, ErrLocked
		}
		var err error
		if raw, err = NewRing(lock.key).Open(raw, []byte(pemRing)); err != nil {
			return nil, unlockError(err)
		}
	default:
		return nil, errdefs.ErrDataLoss.WithMessage("key file is damaged: it does not say whether it is locked")
	}
	if len(raw) == 0 || len(raw)%KeySize != 0 || len(raw) > maxRing*KeySize {
		return nil, errdefs.ErrDataLoss.WithMessage(fmt.Sprintf("key file is damaged: %d bytes of keys", len(raw)))
	}
	var keys []Key
	for ; len(raw) > 0; raw = raw[KeySize:] {
		keys = append(keys, Key(raw))
	}
	return NewRing(keys[0], keys[1:]...), nil
}

// unlockError explains why the keys cannot be decrypted. If the header names another key, the
// unlock key is wrong. Otherwise the file is damaged.
func unlockError(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return ErrWrongUnlockKey
	}
	return fmt.Errorf("key file is damaged: %w", err)
}
