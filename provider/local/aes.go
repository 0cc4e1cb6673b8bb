package local

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// aesKey wraps with AES-GCM (specification: framework/raw-aes-keyring.md).
type aesKey struct{ *provider.SecureBytes }

func newAESKey(raw []byte) (aesKey, error) {
	switch len(raw) {
	case 16, 24, 32:
	default:
		return aesKey{}, fmt.Errorf("%w: it has %d bytes, AES takes 16, 24 or 32", provider.ErrInvalidKey, len(raw))
	}
	key, err := provider.NewSecureBytes(raw)
	return aesKey{key}, err
}

func (k aesKey) algorithm() string { return fmt.Sprintf("AES-%d-GCM", 8*k.Len()) }

// info returns the key provider information without its last part, the IV: the key's name, the tag
// length in bits and the IV length in bytes.
func (aesKey) info(name string) []byte {
	b := binary.BigEndian.AppendUint32([]byte(name), header.TagSize*8)
	return binary.BigEndian.AppendUint32(b, header.IVSize)
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

func (k aesKey) wrap(plain []byte, name string, encryptionContext map[string]string) (info, ciphertext []byte, err error) {
	iv := make([]byte, header.IVSize)
	_, _ = rand.Read(iv) // never fails
	err = k.withCipher(encryptionContext, func(aead cipher.AEAD, additional []byte) error {
		ciphertext = aead.Seal(nil, iv, plain, additional)
		return nil
	})
	return append(k.info(name), iv...), ciphertext, err
}

func (k aesKey) trusts(info []byte, name string) bool {
	iv, ok := bytes.CutPrefix(info, k.info(name))
	return ok && len(iv) == header.IVSize
}

func (k aesKey) unwrap(request *provider.UnwrapDataKeyRequest, name string) (plain []byte, err error) {
	iv := request.EncryptedKey.ProviderInfo[len(k.info(name)):]
	err = k.withCipher(request.Context, func(aead cipher.AEAD, additional []byte) (err error) {
		if plain, err = aead.Open(nil, iv, request.EncryptedKey.Ciphertext, additional); err != nil {
			return fmt.Errorf("%w: the data key does not open: another key of the same name, or a changed header", provider.ErrDecryptionFailed)
		}
		return nil
	})
	return plain, err
}
