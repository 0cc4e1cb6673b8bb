package header

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"slices"

	"piko.sh/pikokms/internal/secret"
)

// Suite is an algorithm suite ID (specification: framework/algorithm-suites.md).
type Suite uint16

// The suites that pikokms writes: AES-256-GCM with 12-byte IVs and 16-byte tags under a key that
// HKDF-SHA512 derives for each message, with key commitment. The second adds an ECDSA signature
// over the whole message.
const (
	AES256GCMHKDFSHA512CommitKey          Suite = 0x0478
	AES256GCMHKDFSHA512CommitKeyECDSAP384 Suite = 0x0578
)

// Sizes in bytes that are the same for all suites (specification: framework/algorithm-suites.md,
// data-format/message-header.md).
const (
	messageIDSize1 = 16 // of message format 1
	messageIDSize2 = 32
	commitmentSize = 32
)

// algorithms are the parameters of a suite.
type algorithms struct {
	suite   Suite
	name    string
	version byte
	keySize int              // in bytes, of the data key and of the message's key
	hash    func() hash.Hash // of HKDF; nil if the data key is used as the message's key
	signed  bool
}

// suites are the specification's suites for this message format, beginning with those that pikokms
// writes.
var suites = [...]algorithms{
	{AES256GCMHKDFSHA512CommitKey, "AES-256-GCM, HKDF-SHA512, key commitment", version2, 32, sha512.New, false},
	{AES256GCMHKDFSHA512CommitKeyECDSAP384, "AES-256-GCM, HKDF-SHA512, key commitment, ECDSA P-384", version2, 32, sha512.New, true},
	{0x0014, "AES-128-GCM without key derivation", version1, 16, nil, false},
	{0x0046, "AES-192-GCM without key derivation", version1, 24, nil, false},
	{0x0078, "AES-256-GCM without key derivation", version1, 32, nil, false},
	{0x0114, "AES-128-GCM, HKDF-SHA256", version1, 16, sha256.New, false},
	{0x0146, "AES-192-GCM, HKDF-SHA256", version1, 24, sha256.New, false},
	{0x0178, "AES-256-GCM, HKDF-SHA256", version1, 32, sha256.New, false},
	{0x0214, "AES-128-GCM, HKDF-SHA256, ECDSA P-256", version1, 16, sha256.New, true},
	{0x0346, "AES-192-GCM, HKDF-SHA384, ECDSA P-384", version1, 24, sha512.New384, true},
	{0x0378, "AES-256-GCM, HKDF-SHA384, ECDSA P-384", version1, 32, sha512.New384, true},
}

// algorithms returns the suite's parameters, which are all zero for an unknown suite.
func (s Suite) algorithms() *algorithms {
	for i := range suites {
		if suites[i].suite == s {
			return &suites[i]
		}
	}
	return &algorithms{}
}

// Suites returns the IDs of all suites of the specification.
func Suites() []Suite {
	ids := make([]Suite, len(suites))
	for i, a := range suites {
		ids[i] = a.suite
	}
	slices.Sort(ids)
	return ids
}

// String returns the suite's ID in hex and the names of its algorithms.
func (s Suite) String() string {
	if a := s.algorithms(); a.version != 0 {
		return fmt.Sprintf("0x%04x (%s)", uint16(s), a.name)
	}
	return fmt.Sprintf("0x%04x", uint16(s))
}

// Commits reports whether the suite has key commitment: a message then decrypts under only one data
// key.
func (s Suite) Commits() bool { return s.algorithms().version == version2 }

// Signed reports whether messages of the suite end with a signature.
func (s Suite) Signed() bool { return s.algorithms().signed }

// DataKeySize returns the size in bytes of the suite's data keys, or 0 for an unknown suite.
func (s Suite) DataKeySize() int { return s.algorithms().keySize }

// DeriveKeys derives a message's cipher and, if the suite has it, the key commitment from a data
// key of DataKeySize bytes and the message ID (specification: framework/transitive-requirements.md,
// "HKDF Encryption Key" and "HKDF Commit Key"). The caller zeroes the data key. The error holds
// [ErrUnsupported].
//
// Intermediate keys are zeroed. The cipher holds the message's key for as long as it is in use. The
// states of the HMACs that derived it stay in memory until that is used again. A program built with
// GOEXPERIMENT=runtimesecret erases those, too.
func (s Suite) DeriveKeys(dataKey, messageID []byte) (aead cipher.AEAD, commitment []byte, err error) {
	a := s.algorithms()
	if a.version == 0 {
		return nil, nil, fmt.Errorf("%w: algorithm suite %v", ErrUnsupported, s)
	}
	if len(dataKey) != a.keySize {
		return nil, nil, fmt.Errorf("%w: suite %v takes a data key of %d bytes, not %d", ErrUnsupported, s, a.keySize, len(dataKey))
	}
	secret.Do(func() { aead, commitment, err = a.deriveKeys(dataKey, messageID) })
	return aead, commitment, err
}

func (a *algorithms) deriveKeys(dataKey, messageID []byte) (aead cipher.AEAD, commitment []byte, err error) {
	if a.hash == nil {
		aead, err = newGCM(dataKey)
		return aead, nil, err
	}
	var buf [2 * sha512.Size]byte
	defer clear(buf[:])
	id := [2]byte{byte(a.suite >> 8), byte(a.suite)}
	if !a.suite.Commits() {
		prk := extract(buf[:0], a.hash, nil, dataKey)
		aead, err = newGCM(expand(prk, a.hash, id[:], messageID)[:a.keySize])
		return aead, nil, err
	}
	prk := extract(buf[:0], a.hash, messageID, dataKey)
	if aead, err = newGCM(expand(prk, a.hash, id[:], []byte("DERIVEKEY"))[:a.keySize]); err != nil {
		return nil, nil, err
	}
	commitment = bytes.Clone(expand(prk, a.hash, []byte("COMMITKEY"))[:commitmentSize])
	return aead, commitment, nil
}

// extract appends the pseudorandom key of HKDF to b (RFC 5869, section 2.2). This function and
// expand take the place of package crypto/hkdf, which leaves copies of the data key and of derived
// keys in memory.
func extract(b []byte, hash func() hash.Hash, salt, dataKey []byte) []byte {
	if salt == nil {
		salt = make([]byte, hash().Size())
	}
	mac := hmac.New(hash, salt)
	mac.Write(dataKey) // a hash.Hash never fails
	b = mac.Sum(b)
	overwrite(mac, len(dataKey))
	return b
}

// overwrite makes a hash forget the bytes that it keeps for its next block, after it was summed.
// The hash keeps as many as it was given, which are fewer than a block.
func overwrite(h hash.Hash, given int) {
	var zeros [sha512.BlockSize]byte
	h.Write(zeros[:h.BlockSize()-given])
	h.Write(zeros[:h.BlockSize()-1])
}

// expand returns the first block of HKDF's output (RFC 5869, section 2.3), which is as long as the
// longest key of any suite. It uses the memory after the pseudorandom key.
func expand(prk []byte, hash func() hash.Hash, info ...[]byte) []byte {
	mac := hmac.New(hash, prk)
	for _, part := range info {
		mac.Write(part)
	}
	mac.Write([]byte{1})
	return mac.Sum(prk)[len(prk):]
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("header: AES: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("header: GCM: %w", err)
	}
	return aead, nil
}
