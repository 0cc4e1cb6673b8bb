// Package ecdhwrap wraps data keys under the secret on which two EC keys agree, as the ECDH
// keyrings of AWS's Material Providers Library do (specification: framework/raw-ecdh-keyring.md,
// framework/key-agreement-schemas.md).
package ecdhwrap

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// The key provider IDs of data keys in messages. Each kind of keyring reads both, since one party's
// key may be in KMS and the other's not.
const (
	RawID = "raw-ecdh"
	KMSID = "aws-kms-ecdh"
)

// IsECDH reports whether a data key is wrapped by an ECDH keyring.
func IsECDH(wrapped header.EncryptedDataKey) bool {
	return wrapped.ProviderID == RawID || wrapped.ProviderID == KMSID
}

// curve is a curve that the specification names.
type curve struct {
	ecdh.Curve
	elliptic elliptic.Curve
	name     string // in the input of key derivation
	size     int    // of a coordinate, in bytes
}

var curves = []curve{
	{ecdh.P256(), elliptic.P256(), "p256", 32},
	{ecdh.P384(), elliptic.P384(), "p384", 48},
	{ecdh.P521(), elliptic.P521(), "p521", 66},
}

func curveOf(key *ecdh.PublicKey) *curve {
	for i := range curves {
		if curves[i].Curve == key.Curve() {
			return &curves[i]
		}
	}
	return nil
}

// PublicKey returns a public key that package x509 has parsed. The error has no sentinel.
func PublicKey(parsed any) (*ecdh.PublicKey, error) {
	if key, ok := parsed.(*ecdsa.PublicKey); ok {
		if public, err := key.ECDH(); err == nil {
			return public, nil
		}
	}
	return nil, fmt.Errorf("it is a %T; ECDH takes keys on the curves P-256, P-384 and P-521", parsed)
}

// CurveName returns the name of a key's curve, such as "P-256".
func CurveName(key *ecdh.PublicKey) string { return curveOf(key).elliptic.Params().Name }

// Name returns a public key's name in messages, its compressed point in hex.
func Name(key *ecdh.PublicKey) string { return hex.EncodeToString(compress(key)) }

// compress returns a key's compressed point (SEC 1, section 2.3.3).
func compress(key *ecdh.PublicKey) []byte {
	point := key.Bytes() // 04, x, y
	size := len(point) / 2
	return append([]byte{2 | point[2*size]&1}, point[1:1+size]...)
}

func (c *curve) decompress(point []byte) (*ecdh.PublicKey, error) {
	x, y := elliptic.UnmarshalCompressed(c.elliptic, point)
	if x == nil {
		return nil, errors.New("it is no point of the curve")
	}
	uncompressed := make([]byte, 1+2*c.size)
	uncompressed[0] = 4
	x.FillBytes(uncompressed[1 : 1+c.size])
	y.FillBytes(uncompressed[1+c.size:])
	return c.NewPublicKey(uncompressed)
}

// Parties are the public keys of the two parties of a message. They are on one curve.
type Parties struct{ Sender, Recipient *ecdh.PublicKey }

// NewParties returns the parties of an agreement. The error holds provider.ErrInvalidKey if their
// keys are on two curves.
func NewParties(sender, recipient *ecdh.PublicKey) (Parties, error) {
	if sender.Curve() != recipient.Curve() {
		return Parties{}, fmt.Errorf("%w: one key is on the curve %s and the peer's is on %s; both must be on one", provider.ErrInvalidKey, CurveName(sender), CurveName(recipient))
	}
	return Parties{sender, recipient}, nil
}

const (
	version = 1

	saltSize       = 32
	commitmentSize = 32
	wrappingSize   = 32
)

// Info returns the key provider information by which a message names the parties.
func (p Parties) Info() []byte {
	info := []byte{version}
	for _, key := range []*ecdh.PublicKey{p.Recipient, p.Sender} {
		point := compress(key)
		info = binary.BigEndian.AppendUint32(info, uint32(len(point)))
		info = append(info, point...)
	}
	return info
}

// ParseInfo reads key provider information. The error has no sentinel.
func ParseInfo(info []byte) (Parties, error) {
	for i := range curves {
		c := &curves[i]
		size := 1 + c.size
		prefix := binary.BigEndian.AppendUint32(nil, uint32(size))
		if len(info) != 1+2*(4+size) {
			continue
		}
		recipient, sender := info[1:5+size], info[5+size:]
		if info[0] != version || !bytes.HasPrefix(recipient, prefix) || !bytes.HasPrefix(sender, prefix) {
			break
		}
		var p Parties
		var err error
		if p.Recipient, err = c.decompress(recipient[4:]); err != nil {
			return Parties{}, fmt.Errorf("the recipient's public key: %w", err)
		}
		if p.Sender, err = c.decompress(sender[4:]); err != nil {
			return Parties{}, fmt.Errorf("the sender's public key: %w", err)
		}
		return p, nil
	}
	return Parties{}, fmt.Errorf("%d bytes of key provider information are not those of an ECDH keyring", len(info))
}

// Are reports whether these are the two parties, whichever of them is the sender.
func (p Parties) Are(own, peer *ecdh.PublicKey) bool {
	return p.Sender.Equal(own) && p.Recipient.Equal(peer) || p.Sender.Equal(peer) && p.Recipient.Equal(own)
}

// fixedInfo returns what the derived keys, and the wrapped data key, are bound to.
func (p Parties) fixedInfo(encryptionContext map[string]string) ([]byte, error) {
	b := make([]byte, 0, 512)
	b = append(b, "ecdh-key-derivation\x00"...)
	b = append(b, curveOf(p.Sender).name...)
	b = append(b, "\x00HMAC_SHA384\x00"...)
	b = append(b, compress(p.Sender)...)
	b = append(b, compress(p.Recipient)...)
	b = append(b, 0, version, 0)
	return header.AppendContext(b, encryptionContext)
}

// Wrap wraps a data key under the secret on which the parties agree.
func (p Parties) Wrap(shared, plain []byte, encryptionContext map[string]string) (ciphertext []byte, err error) {
	fixed, err := p.fixedInfo(encryptionContext)
	if err != nil {
		return nil, err
	}
	ciphertext = make([]byte, saltSize, saltSize+commitmentSize+len(plain)+gcm.TagSize)
	_, _ = rand.Read(ciphertext) // never fails
	secret.Do(func() {
		var k keys
		defer k.clear()
		k.derive(shared, fixed, ciphertext)
		ciphertext = append(ciphertext, k.commitment()...)
		var aead cipher.AEAD
		if aead, err = k.cipher(); err == nil {
			ciphertext = aead.Seal(ciphertext, make([]byte, gcm.IVSize), plain, fixed)
		}
	})
	return ciphertext, err
}

// Unwrap unwraps a data key of size bytes. The caller clears the result. The error holds
// provider.ErrDecryptionFailed.
func (p Parties) Unwrap(shared, ciphertext []byte, size int, encryptionContext map[string]string) (plain []byte, err error) {
	if want := saltSize + commitmentSize + size + gcm.TagSize; size < 0 || len(ciphertext) != want {
		return nil, fmt.Errorf("%w: the wrapped data key has %d bytes, with a data key of %d bytes it has %d", provider.ErrDecryptionFailed, len(ciphertext), size, want)
	}
	fixed, err := p.fixedInfo(encryptionContext)
	if err != nil {
		return nil, err
	}
	salt, rest := ciphertext[:saltSize], ciphertext[saltSize:]
	secret.Do(func() {
		var k keys
		defer k.clear()
		k.derive(shared, fixed, salt)
		if subtle.ConstantTimeCompare(k.commitment(), rest[:commitmentSize]) != 1 {
			err = errUnwrap
			return
		}
		var aead cipher.AEAD
		if aead, err = k.cipher(); err != nil {
			return
		}
		if plain, err = aead.Open(nil, make([]byte, gcm.IVSize), rest[commitmentSize:], fixed); err != nil {
			err = errUnwrap
		}
	})
	return plain, err
}

var errUnwrap = fmt.Errorf("%w: the data key does not open: another encryption context, or a changed header", provider.ErrDecryptionFailed)

// keys are derived from a shared secret: the commitment, and the key that wraps one data key.
type keys [2 * sha512.Size384]byte

func (k *keys) clear()             { clear(k[:]) }
func (k *keys) commitment() []byte { return k[:commitmentSize] }

func (k *keys) cipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[commitmentSize : commitmentSize+wrappingSize])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// derive makes the keys by a KDF in counter mode with HMAC-SHA-384 (NIST SP 800-108r1, section
// 4.1). The input of each block is the counter, the label, a zero byte, the salt, and the length in
// bits.
func (k *keys) derive(shared, label, salt []byte) {
	const length = 8 * (commitmentSize + wrappingSize)
	mac := hmac.New(sha512.New384, shared)
	for i := range len(k) / sha512.Size384 {
		mac.Reset()
		mac.Write([]byte{0, 0, 0, byte(i + 1)})
		mac.Write(label)
		mac.Write([]byte{0})
		mac.Write(salt)
		mac.Write([]byte{0, 0, length >> 8, length & 0xff})
		mac.Sum(k[i*sha512.Size384 : i*sha512.Size384])
	}
}
