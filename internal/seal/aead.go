package seal

import (
	"crypto/aes"
	"crypto/cipher"

	"golang.org/x/crypto/chacha20poly1305"
)

// recordAEAD returns the cipher of records: XChaCha20-Poly1305, whose nonces of 24 bytes may be
// chosen at random for 2^80 messages of a key. AES-GCM with random nonces of 12 bytes must stop
// after 2^32 messages, which a busy log reaches in days.
func recordAEAD(key Key) cipher.AEAD {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("seal: " + err.Error()) // only for a wrong key length, which the type excludes
	}
	return aead
}

// newGCM returns AES-256-GCM for a key of KeySize bytes.
func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // only for a wrong key length, which the callers exclude
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error()) // only for a block size that AES does not have
	}
	return aead
}
