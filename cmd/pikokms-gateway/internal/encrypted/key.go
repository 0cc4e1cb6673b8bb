package encrypted

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
)

// Key encrypts and decrypts objects. It is safe for concurrent use.
type Key struct {
	host  *pikokms.Host
	pairs map[string]string
}

// NewKey returns a Key that encrypts with e and decrypts with d, as a host does with
// [pikokms.WithMessages]. The options are those of a host without a storage, such as BindObjectName
// and AllowPlaintext.
func NewKey(e message.Encrypter, d message.Decrypter, options ...pikokms.Option) (*Key, error) {
	e.Keyring = keepingWrapper{e.Keyring}
	keyrings := make([]provider.Unwrapper, len(d.Keyrings))
	for i, k := range d.Keyrings {
		keyrings[i] = keepingUnwrapper{k}
	}
	d.Keyrings = keyrings
	host, err := pikokms.New(append([]pikokms.Option{pikokms.WithMessages(e, d)}, options...)...)
	if err != nil {
		return nil, err
	}
	return &Key{host: host}, nil
}

// With returns a Key for objects whose encryption context has the pairs. They are stored with each
// object. An object without one of them, or with another value, is refused.
func (k *Key) With(pairs map[string]string) *Key { return &Key{k.host, pairs} }

// decrypt returns the content of a stored object and its size, as DecryptObject of a host does.
func (k *Key) decrypt(ctx context.Context, name string, stored io.Reader, size int64) (io.Reader, int64, error) {
	pairs := k.pairs
	if len(pairs) > 0 && k.host.AllowsPlaintext() {
		start := make([]byte, header.SniffSize)
		n, err := io.ReadFull(stored, start)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return nil, 0, err
		}
		stored = io.MultiReader(bytes.NewReader(start[:n]), stored)
		if !header.Sniff(start[:n]) {
			pairs = nil // plaintext has no pairs
		}
	}
	return k.host.DecryptObject(ctx, name, stored, size, pairs)
}

// open opens a stored object for random access, as OpenObject of a host does.
func (k *Key) open(ctx context.Context, name string, stored pikokms.Object) (pikokms.Object, error) {
	pairs := k.pairs
	if len(pairs) > 0 && k.host.AllowsPlaintext() {
		start := make([]byte, header.SniffSize)
		n, err := stored.ReadAt(start, 0)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if !header.Sniff(start[:n]) {
			pairs = nil
		}
	}
	return k.host.OpenObject(ctx, name, stored, pairs)
}

// keptDataKey keeps the data key of a request, so that the gateway can seal an object's checksum
// under it without another call of the key service.
type keptDataKey struct{ key *provider.SecureBytes }

type dataKeyContextKey struct{}

// keepDataKey returns a context in which the data key of one message is kept, and what keeps it.
// The caller closes that.
func keepDataKey(ctx context.Context) (context.Context, *keptDataKey) {
	s := &keptDataKey{}
	return context.WithValue(ctx, dataKeyContextKey{}, s), s
}

// keep keeps a data key, if the context is one of keepDataKey.
func keep(ctx context.Context, key *provider.SecureBytes) error {
	s, ok := ctx.Value(dataKeyContextKey{}).(*keptDataKey)
	if !ok {
		return nil
	}
	shared, err := key.Share()
	if err != nil {
		return err
	}
	err = s.Close() // an earlier data key, which did not fit
	s.key = shared
	return err
}

// Close drops the data key.
func (s *keptDataKey) Close() error {
	if s.key == nil {
		return nil
	}
	return s.key.Close()
}

type keepingWrapper struct{ provider.Wrapper }

func (w keepingWrapper) GenerateDataKey(ctx context.Context, pairs map[string]string) (*provider.DataKey, error) {
	key, err := w.Wrapper.GenerateDataKey(ctx, pairs)
	if err != nil {
		return nil, err
	}
	if err := keep(ctx, key.PlaintextKey); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

type keepingUnwrapper struct{ provider.Unwrapper }

func (u keepingUnwrapper) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	key, err := u.Unwrapper.UnwrapDataKey(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := keep(ctx, key.PlaintextKey); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

// sealPurpose separates the key below from those of the message, whose info begins with a suite ID
// (specification: framework/algorithm-suites.md).
const sealPurpose = "pikokms-gateway metadata"

// sealer returns the cipher that seals the metadata of a message. A message ID is random, so each
// key seals once, under a nonce of zeros.
func (s *keptDataKey) sealer(h *header.Header) (aead cipher.AEAD, err error) {
	if s.key == nil {
		return nil, errors.New("the message's data key is not known")
	}
	err = s.key.WithAccess(func(dataKey []byte) error {
		key, err := hkdf.Key(sha512.New, dataKey, h.MessageID, sealPurpose, 32)
		if err != nil {
			return err
		}
		defer clear(key)
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		aead, err = cipher.NewGCM(block)
		return err
	})
	return aead, err
}

// sealedMetadata is metadata that the gateway stores encrypted. In the clear, it would show which
// objects are equal.
type sealedMetadata struct {
	Checksum checksum
}

// seal returns the text of sealed metadata.
func (s *sealedMetadata) seal(aead cipher.AEAD) (string, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, make([]byte, aead.NonceSize()), plain, nil)), nil
}

// unseal opens the text that seal returned.
func unseal(aead cipher.AEAD, text string) (*sealedMetadata, error) {
	ciphertext, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), ciphertext, nil)
	if err != nil {
		return nil, err
	}
	var s sealedMetadata
	return &s, json.Unmarshal(plain, &s)
}
