package local

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the hashes of OAEP
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// minRSABits is the shortest modulus in bits to encrypt under (NIST SP 800-57, part 1, table 2).
const minRSABits = 2048

// rsaKey is a wrapping key, either half of which may be missing (specification:
// framework/raw-rsa-keyring.md, "Supported Padding Schemes"). Go keeps RSA keys on its heap.
type rsaKey struct {
	names
	public  *rsa.PublicKey
	private *rsa.PrivateKey
	pkcs1   bool        // only reads, with the padding of PKCS #1 v1.5
	hash    crypto.Hash // of OAEP otherwise
}

// newRSAKey makes a key from those of a PEM text.
func newRSAKey(keys *pemKeys, pkcs1 bool, hash crypto.Hash, named names) (*rsaKey, error) {
	k := &rsaKey{names: named}
	k.public, _ = keys.public.(*rsa.PublicKey)
	k.private, _ = keys.private.(*rsa.PrivateKey)
	return k, k.use(pkcs1, hash)
}

// use sets how the key wraps data keys.
func (k *rsaKey) use(pkcs1 bool, hash crypto.Hash) error {
	switch {
	case pkcs1 && hash == 0:
	case pkcs1:
		return fmt.Errorf("%w: PKCS #1 v1.5 padding has no hash", provider.ErrInvalidKey)
	case hash == 0:
		hash = crypto.SHA256
	case hash != crypto.SHA1 && hash != crypto.SHA256 && hash != crypto.SHA384 && hash != crypto.SHA512:
		return fmt.Errorf("%w: OAEP is defined for SHA-1, SHA-256, SHA-384 and SHA-512, not for %v", provider.ErrInvalidKey, hash)
	}
	k.pkcs1, k.hash = pkcs1, hash
	if k.public != nil && k.public.Size() < minRSABits/8 {
		return fmt.Errorf("%w: its modulus has %d bits; use at least %d to encrypt", provider.ErrInvalidKey, k.public.N.BitLen(), minRSABits)
	}
	return nil
}

func (k *rsaKey) kind() provider.Type { return "local_rsa" }

func (k *rsaKey) encrypts() bool { return k.public != nil && !k.pkcs1 }
func (k *rsaKey) decrypts() bool { return k.private != nil }

func (k *rsaKey) algorithm() string {
	size := 0
	if k.public != nil {
		size = k.public.N.BitLen()
	} else {
		size = k.private.N.BitLen()
	}
	if k.pkcs1 {
		return fmt.Sprintf("RSA-%d-PKCS1", size)
	}
	return fmt.Sprintf("RSA-%d-OAEP-%v", size, k.hash)
}

// wrap ignores the encryption context, which only the header's tag authenticates (specification:
// framework/raw-rsa-keyring.md, "OnEncrypt"). The key provider information is the key's name.
func (k *rsaKey) wrap(plain []byte, _ map[string]string) (wrapped header.EncryptedDataKey, err error) {
	if k.pkcs1 {
		return wrapped, fmt.Errorf("%w: PKCS #1 v1.5 padding is only for reading; use OAEP", provider.ErrKeyUsage)
	}
	if k.public == nil {
		return wrapped, fmt.Errorf("%w: it is a private key; encrypting takes the public one (openssl pkey -in PRIVATE -pubout -out PUBLIC)", provider.ErrKeyUsage)
	}
	wrapped.ProviderID, wrapped.ProviderInfo = k.namespace, []byte(k.keyName)
	wrapped.Ciphertext, err = rsa.EncryptOAEP(k.hash.New(), rand.Reader, k.public, plain, nil)
	return wrapped, err
}

func (k *rsaKey) trusts(wrapped header.EncryptedDataKey) bool {
	return wrapped.ProviderID == k.namespace && string(wrapped.ProviderInfo) == k.keyName
}

// wrapsNow is false with PKCS #1 padding, where another key's data key seems to unwrap.
func (k *rsaKey) wrapsNow(wrapped header.EncryptedDataKey) bool {
	return !k.pkcs1 && k.trusts(wrapped)
}

func (k *rsaKey) unwrap(request *provider.UnwrapDataKeyRequest) ([]byte, error) {
	if k.private == nil {
		return nil, fmt.Errorf("%w: it is a public key; decrypting takes the private one", provider.ErrKeyUsage)
	}
	if k.pkcs1 {
		return k.unwrapPKCS1(request)
	}
	plain, err := rsa.DecryptOAEP(k.hash.New(), nil, k.private, request.EncryptedKey.Ciphertext, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: the data key does not open: another key of the same name, another hash, or a changed header", provider.ErrDecryptionFailed)
	}
	return plain, nil
}

// unwrapPKCS1 returns a random data key if the padding is wrong. Then only the message's header tag
// fails, so no answer shows whether the padding was right (RFC 3218, section 2.3.2).
func (k *rsaKey) unwrapPKCS1(request *provider.UnwrapDataKeyRequest) ([]byte, error) {
	plain := make([]byte, request.Size)
	_, _ = rand.Read(plain) // never fails
	//lint:ignore SA1019 old messages can be read in no other way
	if err := rsa.DecryptPKCS1v15SessionKey(nil, k.private, request.EncryptedKey.Ciphertext, plain); err != nil {
		return nil, fmt.Errorf("%w: the wrapped data key has %d bytes, the RSA key %d", provider.ErrDecryptionFailed, len(request.EncryptedKey.Ciphertext), k.private.Size())
	}
	return plain, nil
}
