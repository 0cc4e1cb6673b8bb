// Package signature makes and verifies the signatures of messages whose algorithm suite has one.
package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"piko.sh/pikokms/header"
)

// ErrFooter means that the bytes after the body of a signed message are no signature.
var ErrFooter = errors.New("malformed message footer")

// scheme is the curve and the digest of a suite's signatures.
type scheme struct {
	curve  func() elliptic.Curve
	digest crypto.Hash
}

// schemes are those of the suites with signatures (specification: framework/algorithm-suites.md).
var schemes = map[header.Suite]scheme{
	0x0214: {elliptic.P256, crypto.SHA256},
	0x0346: {elliptic.P384, crypto.SHA384},
	0x0378: {elliptic.P384, crypto.SHA384},
	header.AES256GCMHKDFSHA512CommitKeyECDSAP384: {elliptic.P384, crypto.SHA384},
}

// schemeOf returns the scheme of a suite. The error holds [header.ErrUnsupported] for an unsigned
// suite.
func schemeOf(s header.Suite) (scheme, error) {
	a, ok := schemes[s]
	if !ok {
		return scheme{}, fmt.Errorf("%w: suite %v has no signature", header.ErrUnsupported, s)
	}
	return a, nil
}

// Signer signs a message. Write the whole header and body to it, then ask for the footer.
type Signer struct {
	hash hash.Hash
	key  *ecdsa.PrivateKey
}

// Write adds bytes of the message. It never fails.
func (s *Signer) Write(p []byte) (int, error) { return s.hash.Write(p) }

// NewSigner makes a new signing key for one message of a signed suite. It also returns the
// message's value of [header.PublicKeyName].
func NewSigner(s header.Suite) (signer *Signer, publicKey string, err error) {
	a, err := schemeOf(s)
	if err != nil {
		return nil, "", err
	}
	key, err := ecdsa.GenerateKey(a.curve(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("header: making a signing key: %w", err)
	}
	point, err := key.PublicKey.Bytes() // uncompressed: 04, X, Y
	if err != nil {
		return nil, "", fmt.Errorf("header: making a signing key: %w", err)
	}
	isOdd := point[len(point)-1] & 1
	point = point[:1+len(point)/2]
	point[0] = 2 + isOdd
	return &Signer{hash: a.digest.New(), key: key}, base64.StdEncoding.EncodeToString(point), nil
}

// Footer returns the message's footer: the length and the DER form of the signature (specification:
// data-format/message-footer.md).
func (s *Signer) Footer() ([]byte, error) {
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, s.hash.Sum(nil))
	if err != nil {
		return nil, fmt.Errorf("header: signing: %w", err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(signature))), signature...), nil
}

// Verifier verifies a message's signature. Write the whole header and body to it, then pass the
// footer to Verify.
type Verifier struct {
	hash hash.Hash
	key  *ecdsa.PublicKey
}

// Write adds bytes of the message. It never fails.
func (v *Verifier) Write(p []byte) (int, error) { return v.hash.Write(p) }

// NewVerifier takes the verification key from the encryption context of a message of a signed
// suite. The error holds [header.ErrMalformed], or [header.ErrUnsupported] for an unsigned suite.
func NewVerifier(s header.Suite, context map[string]string) (*Verifier, error) {
	a, err := schemeOf(s)
	if err != nil {
		return nil, err
	}
	text, ok := context[header.PublicKeyName]
	if !ok {
		return nil, fmt.Errorf("%w: a signed message without the context pair %s", header.ErrMalformed, header.PublicKeyName)
	}
	point, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: context pair %s: %w", header.ErrMalformed, header.PublicKeyName, err)
	}
	x, y := elliptic.UnmarshalCompressed(a.curve(), point)
	if x == nil {
		return nil, fmt.Errorf("%w: context pair %s is no compressed point of the suite's curve", header.ErrMalformed, header.PublicKeyName)
	}
	size := len(point) - 1
	uncompressed := make([]byte, 1+2*size)
	uncompressed[0] = 4
	x.FillBytes(uncompressed[1 : 1+size])
	y.FillBytes(uncompressed[1+size:])
	key, err := ecdsa.ParseUncompressedPublicKey(a.curve(), uncompressed)
	if err != nil {
		return nil, fmt.Errorf("%w: context pair %s: %w", header.ErrMalformed, header.PublicKeyName, err)
	}
	return &Verifier{hash: a.digest.New(), key: key}, nil
}

// Verify checks the signature in footer, which is all bytes after the body. The error holds
// [ErrFooter] if footer has no signature, with [io.ErrUnexpectedEOF] if it is cut short. It holds
// [header.ErrSignature] if the signature does not match.
func (v *Verifier) Verify(footer []byte) error {
	if len(footer) < 2 {
		return fmt.Errorf("%w: the message is cut short before its signature: %w", ErrFooter, io.ErrUnexpectedEOF)
	}
	switch stated, got := int(binary.BigEndian.Uint16(footer)), len(footer)-2; {
	case got < stated:
		return fmt.Errorf("%w: %d bytes of the signature's %d: %w", ErrFooter, got, stated, io.ErrUnexpectedEOF)
	case got > stated:
		return fmt.Errorf("%w: %d bytes follow the signature", ErrFooter, got-stated)
	}
	if !ecdsa.VerifyASN1(v.key, v.hash.Sum(nil), footer[2:]) {
		return fmt.Errorf("%w: the message was changed, or the signature is another's", header.ErrSignature)
	}
	return nil
}
