package local

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// aesKey wraps with AES-GCM (specification: framework/raw-aes-keyring.md).
type aesKey struct {
	*provider.SecureBytes
	names
}

func newAESKey(raw []byte, named names) (aesKey, error) {
	switch len(raw) {
	case 16, 24, 32:
	default:
		return aesKey{}, fmt.Errorf("%w: it has %d bytes, AES takes 16, 24 or 32", provider.ErrInvalidKey, len(raw))
	}
	key, err := provider.NewSecureBytes(raw)
	return aesKey{key, named}, err
}

func (k aesKey) kind() provider.Type { return "local_aes_gcm" }
func (k aesKey) encrypts() bool      { return true }
func (k aesKey) decrypts() bool      { return true }

func (k aesKey) algorithm() string { return fmt.Sprintf("AES-%d-GCM", 8*k.Len()) }

// info returns the key provider information without its last part, the IV: the key's name, the tag
// length in bits and the IV length in bytes.
func (k aesKey) info() []byte {
	b := binary.BigEndian.AppendUint32([]byte(k.keyName), gcm.TagSize*8)
	return binary.BigEndian.AppendUint32(b, gcm.IVSize)
}

// withCipher calls operation with the wrapping cipher, and with the additional data that an
// encryption context gives. The cipher, which contains the key, is unreachable afterwards. Package
// secret says when its memory is erased.
func (k aesKey) withCipher(encryptionContext map[string]string, operation func(aead cipher.AEAD, additional []byte) error) error {
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return err
	}
	return k.WithAccess(func(key []byte) (err error) {
		secret.Do(func() { err = useCipher(key, additional, operation) })
		return err
	})
}

func useCipher(key, additional []byte, operation func(aead cipher.AEAD, additional []byte) error) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	return operation(aead, additional)
}

func (k aesKey) wrap(plain []byte, encryptionContext map[string]string) (wrapped header.EncryptedDataKey, err error) {
	iv := make([]byte, gcm.IVSize)
	_, _ = rand.Read(iv) // never fails
	err = k.withCipher(encryptionContext, func(aead cipher.AEAD, additional []byte) error {
		wrapped.Ciphertext = aead.Seal(nil, iv, plain, additional)
		return nil
	})
	wrapped.ProviderID, wrapped.ProviderInfo = k.namespace, append(k.info(), iv...)
	return wrapped, err
}

func (k aesKey) trusts(wrapped header.EncryptedDataKey) bool {
	iv, ok := bytes.CutPrefix(wrapped.ProviderInfo, k.info())
	return ok && len(iv) == gcm.IVSize && wrapped.ProviderID == k.namespace
}

func (k aesKey) wrapsNow(wrapped header.EncryptedDataKey) bool { return k.trusts(wrapped) }

func (k aesKey) unwrap(request *provider.UnwrapDataKeyRequest) (plain []byte, err error) {
	iv := request.EncryptedKey.ProviderInfo[len(k.info()):]
	err = k.withCipher(request.Context, func(aead cipher.AEAD, additional []byte) (err error) {
		if plain, err = aead.Open(nil, iv, request.EncryptedKey.Ciphertext, additional); err != nil {
			return fmt.Errorf("%w: the data key does not open: another key of the same name, or a changed header", provider.ErrDecryptionFailed)
		}
		return nil
	})
	return plain, err
}
