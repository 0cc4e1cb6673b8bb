package local

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// hpkeProviderID is the key provider ID of data keys under HPKE keys in messages. docs/FORMAT.md
// specifies them.
const hpkeProviderID = "piko-hpke"

// The blocks of PEM that hold HPKE keys: the KEM's ID in two bytes, and the key as the KEM
// serialises it.
const (
	hpkePublicBlock  = "PIKOKMS HPKE PUBLIC KEY"
	hpkePrivateBlock = "PIKOKMS HPKE PRIVATE KEY"
)

const (
	hpkeVersion         = 1
	hpkeFingerprintSize = 16
)

// hpkeKEMs are the KEMs of HPKE keys, each of ML-KEM-768 and a curve, so that a data key stays
// secret as long as one of the two is secure (draft-ietf-hpke-pq).
var hpkeKEMs = []hpke.KEM{hpke.MLKEM768X25519(), hpke.MLKEM768P256()}

// hpkeKey wraps with HPKE (RFC 9180), in its base mode.
type hpkeKey struct {
	public  hpke.PublicKey
	private hpke.PrivateKey // nil to encrypt only
	wraps   bool
	info    []byte // the key provider information by which messages name the key
}

// GenerateHPKE makes a new HPKE key and writes it to a new file that only its owner can read.
// Beside it, a file whose name ends in ".pub" gets the public half, which is enough to encrypt. The
// KEM is hpke.MLKEM768X25519 or hpke.MLKEM768P256. If one of the files exists, it is kept, and the
// error holds fs.ErrExist.
func GenerateHPKE(path string, kem hpke.KEM) error {
	if !isHPKE(kem) {
		return fmt.Errorf("%w: KEM %#04x; HPKE keys are of MLKEM768X25519 or MLKEM768P256", provider.ErrInvalidKey, kem.ID())
	}
	key, err := kem.GenerateKey()
	if err != nil {
		return fmt.Errorf("local: making an HPKE key: %w", err)
	}
	seed, err := key.Bytes()
	if err != nil {
		return fmt.Errorf("local: making an HPKE key: %w", err)
	}
	defer clear(seed)
	public := pem.EncodeToMemory(&pem.Block{Type: hpkePublicBlock, Bytes: withKEM(kem, key.PublicKey().Bytes())})
	content := withKEM(kem, seed)
	defer clear(content)
	private := pem.EncodeToMemory(&pem.Block{Type: hpkePrivateBlock, Bytes: content})
	defer clear(private)
	text := append(bytes.Clone(public), private...)
	defer clear(text)
	if _, err := os.Lstat(path + ".pub"); err == nil {
		return fmt.Errorf("local: key file %s.pub is kept, choose another name: %w", path, fs.ErrExist)
	}
	if err := writeNew(path, text, 0o600); err != nil {
		return err
	}
	if err := writeNew(path+".pub", public, 0o644); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func isHPKE(kem hpke.KEM) bool {
	for _, known := range hpkeKEMs {
		if known.ID() == kem.ID() {
			return true
		}
	}
	return false
}

func withKEM(kem hpke.KEM, key []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(key)), kem.ID()), key...)
}

// parseHPKE parses the content of a PEM block.
func parseHPKE(block *pem.Block) (any, error) {
	for _, kem := range hpkeKEMs {
		if len(block.Bytes) < 2 || binary.BigEndian.Uint16(block.Bytes) != kem.ID() {
			continue
		}
		if block.Type == hpkePrivateBlock {
			return kem.NewPrivateKey(block.Bytes[2:])
		}
		return kem.NewPublicKey(block.Bytes[2:])
	}
	return nil, errors.New("unknown KEM")
}

func newHPKEKey(keys *pemKeys) *hpkeKey {
	k := &hpkeKey{wraps: keys.public != nil}
	if k.private, _ = keys.private.(hpke.PrivateKey); k.private != nil {
		k.public = k.private.PublicKey()
	} else {
		k.public = keys.public.(hpke.PublicKey)
	}
	digest := sha256.Sum256(k.public.Bytes())
	k.info = append(withKEM(k.public.KEM(), nil), digest[:hpkeFingerprintSize]...)
	k.info = append([]byte{hpkeVersion}, k.info...)
	return k
}

func (k *hpkeKey) kind() provider.Type { return "local_hpke" }
func (k *hpkeKey) encrypts() bool      { return k.wraps }
func (k *hpkeKey) decrypts() bool      { return k.private != nil }

// id names the key by the fingerprint of its public half.
func (k *hpkeKey) id() names {
	return names{hpkeProviderID, hex.EncodeToString(k.info[len(k.info)-hpkeFingerprintSize:])}
}

func (k *hpkeKey) algorithm() string {
	if k.public.KEM().ID() == hpke.MLKEM768P256().ID() {
		return "HPKE-MLKEM768-P256"
	}
	return "HPKE-MLKEM768-X25519"
}

// suiteInfo returns HPKE's info, which binds a data key to its wrapping key and the encryption
// context.
func (k *hpkeKey) suiteInfo(encryptionContext map[string]string) ([]byte, error) {
	b := append(make([]byte, 0, 512), hpkeProviderID...)
	b = append(b, k.info...)
	return header.AppendContext(b, encryptionContext)
}

func (k *hpkeKey) wrap(plain []byte, encryptionContext map[string]string) (wrapped header.EncryptedDataKey, err error) {
	if !k.wraps {
		return wrapped, fmt.Errorf("%w: it is a private key; encrypting takes the public one", provider.ErrKeyUsage)
	}
	info, err := k.suiteInfo(encryptionContext)
	if err != nil {
		return wrapped, err
	}
	wrapped.ProviderID, wrapped.ProviderInfo = hpkeProviderID, bytes.Clone(k.info)
	secret.Do(func() {
		wrapped.Ciphertext, err = hpke.Seal(k.public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
	})
	return wrapped, err
}

func (k *hpkeKey) trusts(wrapped header.EncryptedDataKey) bool {
	return wrapped.ProviderID == hpkeProviderID && bytes.Equal(wrapped.ProviderInfo, k.info)
}

func (k *hpkeKey) wrapsNow(wrapped header.EncryptedDataKey) bool { return k.trusts(wrapped) }

func (k *hpkeKey) unwrap(request *provider.UnwrapDataKeyRequest) (plain []byte, err error) {
	if k.private == nil {
		return nil, fmt.Errorf("%w: it is a public key; decrypting takes the private one", provider.ErrKeyUsage)
	}
	info, err := k.suiteInfo(request.Context)
	if err != nil {
		return nil, err
	}
	secret.Do(func() {
		plain, err = hpke.Open(k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), info, request.EncryptedKey.Ciphertext)
	})
	if err != nil {
		return nil, fmt.Errorf("%w: the data key does not open: another encryption context, or a changed header", provider.ErrDecryptionFailed)
	}
	return plain, nil
}
