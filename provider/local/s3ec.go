package local

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"slices"

	"piko.sh/pikokms/internal/gcm"
	"piko.sh/pikokms/internal/secret"
	"piko.sh/pikokms/provider"
)

// UnwrapS3EC implements provider.S3ECKeyring. Hash and PKCS1v15 of the Config have no effect on it.
func (p *keyring) UnwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) (*provider.SecureBytes, error) {
	plain, err := p.unwrapS3EC(ctx, wrapped)
	if err != nil {
		return nil, p.fail("UnwrapS3EC", err)
	}
	defer clear(plain)
	key, err := provider.NewSecureBytes(plain)
	if err != nil {
		return nil, p.fail("UnwrapS3EC", err)
	}
	return key, nil
}

func (p *keyring) unwrapS3EC(ctx context.Context, wrapped *provider.S3ECDataKey) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch key := p.key.(type) {
	case aesKey:
		return key.unwrapS3EC(wrapped)
	case *rsaKey:
		return key.unwrapS3EC(wrapped)
	}
	return nil, provider.ErrUntrustedKey
}

func notOfKind(kind string, wrapped *provider.S3ECDataKey) error {
	return fmt.Errorf("%w: its data key is wrapped by %.100q, and this is an %s key", provider.ErrUntrustedKey, wrapped.Algorithm, kind)
}

var errNotUnwrapped = fmt.Errorf("%w: the data key does not open: another key, or a changed object", provider.ErrDecryptionFailed)

func (k aesKey) unwrapS3EC(wrapped *provider.S3ECDataKey) (plain []byte, err error) {
	unwrap := map[string]func(key []byte, wrapped *provider.S3ECDataKey) ([]byte, error){
		"AES/GCM": unwrapGCM, "AESWrap": unwrapAESWrap, "AES": unwrapECB,
	}[wrapped.Algorithm]
	if unwrap == nil {
		return nil, notOfKind("AES", wrapped)
	}
	err = k.WithAccess(func(key []byte) (err error) {
		secret.Do(func() { plain, err = unwrap(key, wrapped) })
		return err
	})
	return plain, err
}

// unwrapGCM opens an IV, a ciphertext and a tag. The algorithm of the content is additional data.
func unwrapGCM(key []byte, wrapped *provider.S3ECDataKey) (plain []byte, err error) {
	if len(wrapped.Ciphertext) < gcm.IVSize {
		return nil, errNotUnwrapped
	}
	err = useCipher(key, []byte(wrapped.Content), func(aead cipher.AEAD, additional []byte) (err error) {
		if plain, err = aead.Open(nil, wrapped.Ciphertext[:gcm.IVSize], wrapped.Ciphertext[gcm.IVSize:], additional); err != nil {
			return errNotUnwrapped
		}
		return nil
	})
	return plain, err
}

// unwrapAESWrap is the key unwrapping of RFC 3394, section 2.2.2, with its default initial value.
func unwrapAESWrap(key []byte, wrapped *provider.S3ECDataKey) ([]byte, error) {
	const half = aes.BlockSize / 2
	n := len(wrapped.Ciphertext)/half - 1
	if n < 2 || len(wrapped.Ciphertext)%half != 0 {
		return nil, errNotUnwrapped
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, registers := slices.Clone(wrapped.Ciphertext[:half]), slices.Clone(wrapped.Ciphertext[half:])
	both := make([]byte, aes.BlockSize)
	defer clear(both)
	for t := 6 * n; t > 0; t-- {
		register := registers[(t-1)%n*half:][:half]
		binary.BigEndian.PutUint64(both, binary.BigEndian.Uint64(a)^uint64(t))
		copy(both[half:], register)
		block.Decrypt(both, both)
		copy(a, both[:half])
		copy(register, both[half:])
	}
	if subtle.ConstantTimeCompare(a, []byte{0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6, 0xa6}) != 1 {
		clear(registers)
		return nil, errNotUnwrapped
	}
	return registers, nil
}

// unwrapECB decrypts single blocks with the padding of PKCS #7, as Java's cipher "AES" does.
// Nothing authenticates the data key.
func unwrapECB(key []byte, wrapped *provider.S3ECDataKey) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := slices.Clone(wrapped.Ciphertext)
	if len(plain) == 0 || len(plain)%aes.BlockSize != 0 {
		return nil, errNotUnwrapped
	}
	for i := 0; i < len(plain); i += aes.BlockSize {
		block.Decrypt(plain[i:], plain[i:])
	}
	padding := int(plain[len(plain)-1])
	if padding < 1 || padding > aes.BlockSize {
		clear(plain)
		return nil, errNotUnwrapped
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			clear(plain)
			return nil, errNotUnwrapped
		}
	}
	return plain[:len(plain)-padding], nil
}

func (k *rsaKey) unwrapS3EC(wrapped *provider.S3ECDataKey) ([]byte, error) {
	options := &rsa.OAEPOptions{Hash: crypto.SHA1}
	switch wrapped.Algorithm {
	case "RSA-OAEP-SHA1", "RSA":
	case "RSA/ECB/OAEPWithSHA-256AndMGF1Padding":
		options = &rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1} // what Java understands by it
	default:
		return nil, notOfKind("RSA", wrapped)
	}
	if k.private == nil {
		return nil, fmt.Errorf("%w: it is a public key; decrypting takes the private one", provider.ErrKeyUsage)
	}
	if wrapped.Algorithm == "RSA" {
		plain := make([]byte, provider.DataKeySize)
		_, _ = rand.Read(plain) // never fails; a data key of wrong padding is a random one, as in unwrapPKCS1
		//lint:ignore SA1019 old objects can be read in no other way
		if err := rsa.DecryptPKCS1v15SessionKey(nil, k.private, wrapped.Ciphertext, plain); err != nil {
			return nil, errNotUnwrapped
		}
		return plain, nil
	}
	plain, err := k.private.Decrypt(nil, wrapped.Ciphertext, options)
	if err != nil {
		return nil, errNotUnwrapped
	}
	if wrapped.Algorithm != "RSA-OAEP-SHA1" {
		return plain, nil
	}
	// The data key has its length before it, and the algorithm of the content after it.
	defer clear(plain)
	const size = provider.DataKeySize
	if len(plain) != 1+size+len(wrapped.Content) || plain[0] != size || subtle.ConstantTimeCompare(plain[1+size:], []byte(wrapped.Content)) != 1 {
		return nil, fmt.Errorf("%w: the data key is of another algorithm than the content: a changed object", provider.ErrDecryptionFailed)
	}
	return slices.Clone(plain[1 : 1+size]), nil
}

var _ provider.S3ECKeyring = (*keyring)(nil)
