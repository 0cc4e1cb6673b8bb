package branchkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/google/uuid"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// providerID is the key provider ID of branch keys in messages (specification:
// framework/aws-kms/aws-kms-hierarchical-keyring.md, "OnEncrypt").
const providerID = "aws-kms-hierarchy"

// Sizes in bytes.
const (
	branchKeySize = 32
	saltSize      = 16
	prefixSize    = saltSize + gcm.IVSize + len(uuid.UUID{}) // before the wrapped data key
)

// wrapped are the parts of an encrypted data key's ciphertext (specification:
// framework/aws-kms/aws-kms-hierarchical-keyring.md, "Ciphertext").
type wrapped struct {
	salt, iv []byte
	version  uuid.UUID
	sealed   []byte // the wrapped data key, then the tag
}

// parseWrapped parses a ciphertext whose data key has a known size. The error holds
// provider.ErrDecryptionFailed.
func parseWrapped(ciphertext []byte, size int) (wrapped, error) {
	if want := prefixSize + size + gcm.TagSize; size < 0 || len(ciphertext) != want {
		return wrapped{}, fmt.Errorf("%w: the wrapped data key has %d bytes, with a data key of %d bytes it has %d", provider.ErrDecryptionFailed, len(ciphertext), size, want)
	}
	version := uuid.UUID(ciphertext[saltSize+gcm.IVSize : prefixSize])
	return wrapped{ciphertext[:saltSize], ciphertext[saltSize : saltSize+gcm.IVSize], version, ciphertext[prefixSize:]}, nil
}

// seal wraps a data key under a version of a branch key.
func seal(key *provider.SecureBytes, id string, version uuid.UUID, plain []byte, encryptionContext map[string]string) ([]byte, error) {
	ciphertext := make([]byte, prefixSize, prefixSize+len(plain)+gcm.TagSize)
	salt, iv := ciphertext[:saltSize], ciphertext[saltSize:saltSize+gcm.IVSize]
	_, _ = rand.Read(ciphertext[:saltSize+gcm.IVSize]) // never fails
	copy(ciphertext[saltSize+gcm.IVSize:], version[:])
	additional, err := additionalData(id, version, encryptionContext)
	if err != nil {
		return nil, err
	}
	aead, err := derive(key, salt)
	if err != nil {
		return nil, err
	}
	return aead.Seal(ciphertext, iv, plain, additional), nil
}

// open unwraps a data key. The caller clears the result.
func (w wrapped) open(key *provider.SecureBytes, id string, encryptionContext map[string]string) ([]byte, error) {
	additional, err := additionalData(id, w.version, encryptionContext)
	if err != nil {
		return nil, err
	}
	aead, err := derive(key, w.salt)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, w.iv, w.sealed, additional)
	if err != nil {
		return nil, fmt.Errorf("%w: the data key does not open under version %s of the branch key: a changed header, or another encryption context", provider.ErrDecryptionFailed, w.version)
	}
	return plain, nil
}

// additionalData is what a wrapped data key is bound to (specification:
// framework/aws-kms/aws-kms-hierarchical-keyring.md, "Branch Key Wrapping and Unwrapping AAD").
func additionalData(id string, version uuid.UUID, encryptionContext map[string]string) ([]byte, error) {
	b := make([]byte, 0, 512)
	b = append(b, providerID...)
	b = append(b, id...)
	b = append(b, version[:]...)
	return header.AppendContext(b, encryptionContext)
}

// derive derives the key that wraps one data key from a branch key: one block of a KDF in counter
// mode with HMAC-SHA-256 (NIST SP 800-108r1, section 4.1). The input is the counter, the label, a
// zero byte, the salt, and the length in bits. Package secret says when the memory of the HMAC's
// state and of the cipher is erased.
func derive(key *provider.SecureBytes, salt []byte) (aead cipher.AEAD, err error) {
	secret.Do(func() { aead, err = deriveCipher(key, salt) })
	return aead, err
}

func deriveCipher(key *provider.SecureBytes, salt []byte) (cipher.AEAD, error) {
	var derived [sha256.Size]byte
	defer clear(derived[:])
	err := key.WithAccess(func(branchKey []byte) error {
		mac := hmac.New(sha256.New, branchKey)
		mac.Write([]byte("\x00\x00\x00\x01" + providerID + "\x00"))
		mac.Write(salt)
		mac.Write([]byte{0, 0, sha256.Size * 8 >> 8, sha256.Size * 8 & 0xff})
		mac.Sum(derived[:0])
		return nil
	})
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
