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
	"piko.sh/pikokms/internal/signature"
	"piko.sh/pikokms/provider"
)

// verified is the result of checking a header.
type verified struct {
	aead          cipher.AEAD
	count         func(bytes int)     // counts the data key's use; may be nil
	all, unstored map[string]string   // the encryption context, and those pairs that are not stored
	verifier      *signature.Verifier // nil for an unsigned suite
}

// verify checks a header: first everything that needs no key service, then its data keys.
func (d *Decrypter) verify(ctx context.Context, h *header.Header, stated map[string]string) (verified, error) {
	if err := d.CommitmentPolicy.allowDecrypt(h.Suite); err != nil {
		return verified{}, err
	}
	if d.Accept != nil {
		if err := d.Accept(h); err != nil {
			return verified{}, err
		}
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
		// The specification asks for this (framework/default-cmm.md, "Decrypt Materials").
		return verified{}, classify(fmt.Errorf("%w: suite %v has no signature, but the encryption context has a verification key", header.ErrMalformed, h.Suite))
	}
	if h.Suite.Signed() {
		var err error
		if v.verifier, err = signature.NewVerifier(h.Suite, h.EncryptionContext); err != nil {
			return verified{}, classify(err)
		}
	}
	if err := d.unwrap(ctx, h, &v); err != nil {
		return verified{}, v.hint(err)
	}
	return v, nil
}

// hint adds a hint to the error of a message that does not decrypt: a required pair may be wrong or
// missing. The tag then fails just as with a wrong key or a changed header.
func (v *verified) hint(err error) error {
	switch {
	case !errors.Is(err, provider.ErrDecryptionFailed):
		return err
	case len(v.unstored) > 0:
		names := slices.Sorted(maps.Keys(v.unstored))
		return fmt.Errorf("%w: the message does not store %q, so what was stated for it was taken as a required pair: %w", provider.ErrContextMismatch, names, err)
	}
	// If each data key failed only because the header commits to another one, no pair is missing.
	if unfit, ok := errors.AsType[*unwrapError](err); ok && !slices.ContainsFunc(unfit.failures, func(err error) bool {
		return errors.Is(err, provider.ErrDecryptionFailed) && !errors.Is(err, errCommitment)
	}) {
		return err
	}
	return fmt.Errorf("%w; or the message requires a pair that was not stated", err)
}

var errCommitment = fmt.Errorf("%w: the key commitment is another", header.ErrAuthentication)

// unwrap looks for a data key that a keyring unwraps and under which the header verifies. It goes
// on after a data key under which the header does not verify, for two reasons: a name does not
// prove whose key it is, and PKCS #1 v1.5 padding unwraps what was never wrapped (RFC 3218, section
// 2.3.2). The error is the same for such a data key and one that does not unwrap.
func (d *Decrypter) unwrap(ctx context.Context, h *header.Header, v *verified) error {
	limits := d.Limits.WithDefaults()
	var (
		failures []error
		refused  []bool // by data key: a keyring trusts its wrapping key, but failed
		reasons  []string
	)
	for _, keyring := range d.Keyrings {
		for i, wrapped := range h.EncryptedDataKeys {
			if len(failures) == limits.MaxAttempts {
				reason := fmt.Sprintf("its %d data keys take more attempts than the %d that were made", len(h.EncryptedDataKeys), len(failures))
				return &unwrapError{append(failures, &header.LimitError{Limit: "MaxAttempts", Reason: reason, Option: "Limits.MaxAttempts"})}
			}
			request := &provider.UnwrapDataKeyRequest{EncryptedKey: wrapped, Context: v.all, Size: h.Suite.DataKeySize()}
			err := try(ctx, keyring, request, h, v)
			if err == nil {
				return nil
			}
			if errors.Is(err, provider.ErrUntrustedKey) {
				reasons = appendReason(reasons, err) // which says nothing of the other keyrings, even if ctx has ended
				continue
			}
			if ctx.Err() != nil {
				return err
			}
			if refused == nil {
				refused = make([]bool, len(h.EncryptedDataKeys))
			}
			refused[i] = true
			failures = append(failures, err)
		}
	}
	if len(failures) == 0 {
		return untrusted(h.EncryptedDataKeys, reasons)
	}
	for i, wrapped := range h.EncryptedDataKeys {
		if !refused[i] {
			failures = append(failures, fmt.Errorf("no provider is configured for %s", describeKeys([]header.EncryptedDataKey{wrapped})))
		}
	}
	return &unwrapError{failures}
}

// try asks one keyring to unwrap one data key, and verifies the header under it.
func try(ctx context.Context, keyring provider.Unwrapper, request *provider.UnwrapDataKeyRequest, h *header.Header, v *verified) error {
	dataKey, err := keyring.UnwrapDataKey(ctx, request)
	if err != nil {
		return classify(err)
	}
	err = dataKey.PlaintextKey.WithAccess(func(key []byte) error {
		if size := h.Suite.DataKeySize(); len(key) != size {
			return fmt.Errorf("%w: it has %d bytes, the message's suite takes %d", header.ErrAuthentication, len(key), size)
		}
		aead, commitment, err := h.Suite.DeriveKeys(key, h.MessageID)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(commitment, h.Commitment) != 1 {
			return errCommitment
		}
		v.aead = aead
		return h.Verify(aead, v.unstored)
	})
	_ = dataKey.Close() // its error concerns the process's memory, and not the message
	if dataKey.Verified != nil {
		dataKey.Verified(err == nil)
	}
	if err != nil {
		return fmt.Errorf("%w: the data key under %s does not fit: %w", provider.ErrDecryptionFailed, describeKeys([]header.EncryptedDataKey{request.EncryptedKey}), err)
	}
	v.count = dataKey.Count
	return nil
}

// unwrapError holds the reasons why no data key of a message fits.
type unwrapError struct{ failures []error }

func (e *unwrapError) Error() string {
	var reasons []string
	for _, err := range e.failures {
		// A keyring may fail for the same reason with several data keys.
		if reason := err.Error(); !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	text := strings.Join(reasons, "; ")
	// All reasons begin with the sentinel's text, which is shown only once.
	sentinel := provider.ErrDecryptionFailed.Error() + ": "
	if before, after, found := strings.Cut(text, sentinel); found {
		text = before + sentinel + strings.ReplaceAll(after, sentinel, "")
	}
	return text
}

func (e *unwrapError) Unwrap() []error { return e.failures }

// counted is the cipher of a message. It counts the bytes that are decrypted under the data key.
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
