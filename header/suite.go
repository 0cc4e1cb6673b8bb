package header

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"fmt"
)

// Suite is an algorithm suite ID (specification: framework/algorithm-suites.md).
type Suite uint16

// AES256GCMHKDFSHA512CommitKey is the suite that pikokms writes: AES-256-GCM with 12-byte IVs and 16-byte tags under a
// key that HKDF-SHA512 derives for each message, with key commitment, unsigned.
const AES256GCMHKDFSHA512CommitKey Suite = 0x0478

// Sizes in bytes that suite 0x0478 fixes (specification: framework/algorithm-suites.md, data-format/message-header.md).
const (
	DataKeySize    = 32
	MessageIDSize  = 32
	CommitmentSize = 32
	TagSize        = 16
	IVSize         = 12
)

// otherSuites are the specification's suites that this version of pikokms can name but neither reads nor writes.
var otherSuites = map[Suite]string{
	0x0014: "AES-128-GCM without key derivation",
	0x0046: "AES-192-GCM without key derivation",
	0x0078: "AES-256-GCM without key derivation",
	0x0114: "AES-128-GCM, HKDF-SHA256",
	0x0146: "AES-192-GCM, HKDF-SHA256",
	0x0178: "AES-256-GCM, HKDF-SHA256",
	0x0214: "AES-128-GCM, HKDF-SHA256, ECDSA P-256",
	0x0346: "AES-192-GCM, HKDF-SHA384, ECDSA P-384",
	0x0378: "AES-256-GCM, HKDF-SHA384, ECDSA P-384",
	0x0578: "AES-256-GCM, HKDF-SHA512, key commitment, ECDSA P-384",
}

// String gives the suite's ID in hex and what it stands for.
func (s Suite) String() string {
	if s == AES256GCMHKDFSHA512CommitKey {
		return "0x0478 (AES-256-GCM, HKDF-SHA512, key commitment)"
	}
	if name, ok := otherSuites[s]; ok {
		return fmt.Sprintf("0x%04x (%s)", uint16(s), name)
	}
	return fmt.Sprintf("0x%04x", uint16(s))
}

// DeriveKeys derives a message's cipher and its key commitment from a data key of DataKeySize bytes and the message ID
// (specification: framework/transitive-requirements.md, "HKDF Encryption Key" and "HKDF Commit Key"; RFC 5869).
// The caller keeps the data key and zeroes it.
func (s Suite) DeriveKeys(dataKey, messageID []byte) (aead cipher.AEAD, commitment []byte, err error) {
	if s != AES256GCMHKDFSHA512CommitKey {
		return nil, nil, fmt.Errorf("%w: suite %v", ErrUnsupported, s)
	}
	if len(dataKey) != DataKeySize {
		return nil, nil, fmt.Errorf("%w: suite %v takes a data key of %d bytes, not %d", ErrUnsupported, s, DataKeySize, len(dataKey))
	}
	prk, err := hkdf.Extract(sha512.New, dataKey, messageID)
	if err != nil {
		return nil, nil, fmt.Errorf("header: HKDF extract: %w", err)
	}
	defer clear(prk)
	key, err := hkdf.Expand(sha512.New, prk, string([]byte{byte(s >> 8), byte(s)})+"DERIVEKEY", DataKeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("header: HKDF expand: %w", err)
	}
	defer clear(key)
	commitment, err = hkdf.Expand(sha512.New, prk, "COMMITKEY", CommitmentSize)
	if err != nil {
		return nil, nil, fmt.Errorf("header: HKDF expand: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, fmt.Errorf("header: AES: %w", err)
	}
	aead, err = cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("header: GCM: %w", err)
	}
	return aead, commitment, nil
}
