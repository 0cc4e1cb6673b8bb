package gcpkms

import (
	"context"
	"errors"
	"fmt"

	"piko.sh/pikokms/provider"
)

// maxDirectSize is the largest plaintext in bytes that Cloud KMS itself encrypts here. Cloud KMS
// takes 64 KiB, or 8 KiB with the encryption context under a key of an HSM (Cloud KMS REST
// reference, cryptoKeys.encrypt).
const maxDirectSize = 4096

// EncryptsDirectly returns true.
func (p *keyring) EncryptsDirectly() bool { return true }

// EncryptDirectly encrypts a value of up to 4,096 bytes with one call of Cloud KMS.
func (p *keyring) EncryptDirectly(ctx context.Context, value []byte, encryptionContext map[string]string) (ciphertext []byte, under string, err error) {
	under, err = p.named(p.under)
	if err != nil {
		return nil, "", p.fail(ctx, "Encrypt", p.own, err)
	}
	if len(value) > maxDirectSize {
		return nil, "", nil
	}
	ciphertext, err = p.encrypt(ctx, under, value, encryptionContext)
	if err != nil {
		return nil, "", p.fail(ctx, "Encrypt", under, err)
	}
	return ciphertext, under, nil
}

// DecryptDirectly calls Cloud KMS once under a key of Under, or if the provider trusts only its own
// key. A value does not name its key, so otherwise DecryptDirectly tries the trusted keys one after
// the other, 16 at most.
func (p *keyring) DecryptDirectly(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	candidates, err := p.candidates()
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", p.own, err)
	}
	value, err := p.tryAll(ctx, candidates, ciphertext, encryptionContext)
	if err != nil {
		return nil, p.fail(ctx, "Decrypt", candidates[0], err)
	}
	return value, nil
}

// tryAll decrypts under the first of the keys that can. The caller clears the result.
func (p *keyring) tryAll(ctx context.Context, candidates []string, ciphertext []byte, encryptionContext map[string]string) ([]byte, error) {
	var failures []error
	for _, key := range candidates {
		answer, err := p.decrypt(ctx, key, ciphertext, encryptionContext)
		if err == nil {
			return answer.Plaintext, nil
		}
		if len(candidates) > 1 {
			err = fmt.Errorf("key %s: %w", key, err)
		}
		failures = append(failures, err)
		if ctx.Err() != nil || errors.Is(err, provider.ErrProviderUnavailable) {
			break // the other keys would fail, too
		}
	}
	return nil, errors.Join(failures...)
}
