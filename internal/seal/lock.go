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
	// ErrLocked: the key file is under autolock and no unlock key was given.
	ErrLocked = errdefs.ErrFailedPrecondition.WithMessage("swarm is locked: run `swarm unlock` with the unlock key")
	// ErrWrongUnlockKey: the key file is locked with another key, or was changed.
	ErrWrongUnlockKey = errdefs.ErrInvalidArgument.WithMessage("unlock key does not fit this node: use the newest one of `swarm unlock-key`")
)

// UnlockKey wraps the data keys under autolock. Only the operator has it; its text has the shape of Docker's.
type UnlockKey struct{ key Key }

// NewUnlockKey makes a random one.
func NewUnlockKey() UnlockKey { return UnlockKey{NewKey()} }

// Text is the key as operators keep and type it. It is a secret; there is no String, so that no log shows it by accident.
func (u UnlockKey) Text() string {
	return unlockPrefix + base64.RawStdEncoding.EncodeToString(u.key[:])
}

// ParseUnlockKey reads what Text wrote. Its errors never repeat the key.
func ParseUnlockKey(s string) (UnlockKey, error) {
	s = strings.TrimSpace(s)
	encoded, ok := strings.CutPrefix(s, unlockPrefix)
	if !ok {
		return UnlockKey{}, badUnlock("does not start with " + unlockPrefix)
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") { // the decoder skips line ends
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

// Encode writes the ring for the key file: in the clear when lock is nil (the file's mode is then all that protects it),
// else wrapped by the unlock key.
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

// ParseRing reads what Encode wrote. A file in the clear opens with any lock, also nil.
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
			return nil, wrongKey(err)
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

// wrongKey tells another unlock key (its id is not the one in the header) from a damaged file.
func wrongKey(err error) error {
	if errors.Is(err, errdefs.ErrNotFound) {
		return ErrWrongUnlockKey
	}
	return fmt.Errorf("key file is damaged: %w", err)
}
