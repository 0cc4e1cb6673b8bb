package message

import (
	"context"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// verified is what a header that was checked gives.
type verified struct {
	dataKey       *provider.SecureBytes // to be closed
	aead          cipher.AEAD
	count         func(bytes int)   // of the data key; may be nil
	all, unstored map[string]string // the encryption context, and the required pairs in it
	verifier      *header.Verifier  // nil for a suite without a signature
}

// verify has the data key of a header unwrapped and checks the header's commitment and tag.
func (d *Decrypter) verify(ctx context.Context, h *header.Header, stated map[string]string) (verified, error) {
	if err := d.CommitmentPolicy.allowDecrypt(h.Suite); err != nil {
		return verified{}, err
	}
	v := verified{all: h.EncryptionContext}
	for name, value := range stated {
		got, stored := h.EncryptionContext[name]
		switch {
		case !stored && v.unstored == nil:
			v.unstored = map[string]string{name: value}
		case !stored:
			v.unstored[name] = value
		case got != value:
			return verified{}, fmt.Errorf("%w: the message has another value for %q than the one stated", provider.ErrContextMismatch, name)
		}
	}
	if len(v.unstored) > 0 {
		v.all = make(map[string]string, len(h.EncryptionContext)+len(v.unstored))
		maps.Copy(v.all, h.EncryptionContext)
		maps.Copy(v.all, v.unstored)
	}
	if err := header.CheckContext(v.unstored); err != nil {
		return verified{}, fmt.Errorf("%w: %w", provider.ErrContextMismatch, err)
	}
	if _, signed := h.EncryptionContext[header.PublicKeyName]; signed && !h.Suite.Signed() {
		// Specification: framework/default-cmm.md, "Decrypt Materials".
		return verified{}, classify(fmt.Errorf("%w: suite %v has no signature, but the encryption context has a verification key", header.ErrMalformed, h.Suite))
	}
	var err error
	if h.Suite.Signed() {
		if v.verifier, err = header.NewVerifier(h.Suite, h.EncryptionContext); err != nil {
			return verified{}, classify(err)
		}
	}
	// A required pair that is not the message's looks like a wrong key or a changed header.
	hint := func(err error) error {
		if len(v.unstored) == 0 || !errors.Is(err, provider.ErrDecryptionFailed) {
			return err
		}
		names := slices.Sorted(maps.Keys(v.unstored))
		return fmt.Errorf("%w: the message does not store %q, so what was stated for it was taken as a required pair: %w", provider.ErrContextMismatch, names, err)
	}
	var request *provider.UnwrapDataKeyRequest
	if v.dataKey, request, err = d.unwrap(ctx, h, v.all); err != nil {
		return verified{}, hint(classify(err))
	}
	v.count = request.Count
	err = v.dataKey.WithAccess(func(key []byte) error {
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(commitment, h.Commitment) != 1 {
			return fmt.Errorf("%w: the key commitment does not fit the data key", header.ErrAuthentication)
		}
		v.aead = aead
		return h.Verify(aead, v.unstored)
	})
	if request.Verified != nil {
		request.Verified(err == nil)
	}
	if err != nil {
		_ = v.dataKey.Close() // what failed first is what matters
		return verified{}, hint(classify(err))
	}
	return v, nil
}

// unwrap returns the first data key that one of the keyrings unwraps, and the request that it answered.
func (d *Decrypter) unwrap(ctx context.Context, h *header.Header, encryptionContext map[string]string) (*provider.SecureBytes, *provider.UnwrapDataKeyRequest, error) {
	trusted := make([]bool, len(h.EncryptedDataKeys))
	var failures unwrapError
	for _, keyring := range d.Keyrings {
		for i, wrapped := range h.EncryptedDataKeys {
			request := &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: encryptionContext, Size: h.Suite.DataKeySize()}
			key, err := keyring.UnwrapDataKey(ctx, request)
			if err == nil {
				return key, request, nil
			}
			if ctx.Err() != nil {
				return nil, nil, err
			}
			if !errors.Is(err, provider.ErrUntrustedKey) {
				trusted[i] = true
				failures = append(failures, err)
			}
		}
	}
	if len(failures) == 0 {
		return nil, nil, fmt.Errorf("%w: it names %s; configure a provider for one of them", provider.ErrUntrustedKey, describeKeys(h.EncryptedDataKeys))
	}
	for i, wrapped := range h.EncryptedDataKeys {
		if !trusted[i] {
			failures = append(failures, fmt.Errorf("no provider is configured for %s", describeKeys([]header.EncryptedDataKey{wrapped})))
		}
	}
	return nil, nil, failures
}

// unwrapError says why each data key of a message was not unwrapped.
type unwrapError []error

func (e unwrapError) Error() string {
	reasons := make([]string, len(e))
	for i, err := range e {
		reasons[i] = err.Error()
	}
	return strings.Join(reasons, "; ")
}

func (e unwrapError) Unwrap() []error { return e }

// describeKeys names the wrapping keys that a header states, for an error: the text is the message's, so it is quoted.
func describeKeys(keys []header.EncryptedDataKey) string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = fmt.Sprintf("%q of provider %q", KeyName(k), k.ProviderID)
	}
	return strings.Join(names, ", ")
}

// KeyName returns what a wrapped data key says of its wrapping key: a key ARN, or a raw key's name.
func KeyName(k header.EncryptedDataKey) string {
	// A raw AES key's information is its name, then tag length, IV length and IV, of 4, 4 and 12 bytes
	// (specification: framework/raw-aes-keyring.md, "Key Provider Information").
	const rawAES = "\x00\x00\x00\x80\x00\x00\x00\x0c"
	info := string(k.ProviderInfo)
	if n := len(info) - 20; k.ProviderID != "aws-kms" && n >= 0 && info[n:n+8] == rawAES {
		return info[:n]
	}
	return info
}

// counted is the cipher of a message whose data key is told of the bytes that are decrypted under it.
type counted struct {
	cipher.AEAD
	count func(bytes int)
}

func (c counted) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	plaintext, err := c.AEAD.Open(dst, nonce, ciphertext, additionalData)
	if err == nil {
		c.count(len(plaintext) - len(dst))
	}
	return plaintext, err
}
