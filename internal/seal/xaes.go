package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// messageAEAD derives the AES-256-GCM cipher of one message from the first half of its 24-byte
// nonce. The second half is the nonce of GCM. This is XAES-256-GCM (C2SP); the derivation is NIST
// SP 800-108r1 with CMAC. AES-GCM with random 12-byte nonces is limited to 2^32 messages per key,
// which a busy log reaches in days. XAES-256-GCM is limited to 2^80.
func messageAEAD(key Key, nonce []byte) cipher.AEAD {
	block := newAES(key[:])
	var k1 [aes.BlockSize]byte // the CMAC subkey for complete blocks
	block.Encrypt(k1[:], k1[:])
	carry := byte(0)
	for i := len(k1) - 1; i >= 0; i-- {
		k1[i], carry = k1[i]<<1|carry, k1[i]>>7
	}
	k1[len(k1)-1] ^= carry * 0x87

	var derived [KeySize]byte
	for i := range 2 {
		m := [aes.BlockSize]byte{0, byte(i + 1), 'X', 0}
		copy(m[4:], nonce[:12])
		subtle.XORBytes(m[:], m[:], k1[:])
		block.Encrypt(derived[i*aes.BlockSize:], m[:])
	}
	return newGCM(derived[:])
}

func newAES(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // only for a wrong key length, which the types exclude
	}
	return block
}

func newGCM(key []byte) cipher.AEAD {
	aead, err := cipher.NewGCM(newAES(key))
	if err != nil {
		panic("seal: " + err.Error()) // only for a block size that AES does not have
	}
	return aead
}
