package awskms

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// maxTried is the most keys that are tried for a ciphertext whose key is not named.
const maxTried = 16

// keys are the keys that a provider trusts: its own, those of Config.TrustedKeys, and those under
// which providers of Under have encrypted. A ciphertext never adds one.
type keys struct {
	mu    sync.RWMutex
	arns  []string            // each key once; the provider's own is first, if it is known
	known map[string]struct{} // the same keys
	names map[string]struct{} // aliases and IDs of a configuration or a request to encrypt
}

// trust adds the key of an ARN, and the name with which it was asked for.
func (k *keys) trust(name, keyARN string) {
	if k.trusts(name, keyARN) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.add(name, keyARN) {
		k.arns = append(k.arns, keyARN)
	}
}

// trustOwn adds the provider's own key before all others.
func (k *keys) trustOwn(name, keyARN string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.add(name, keyARN) {
		k.arns = slices.DeleteFunc(k.arns, func(other string) bool { return other == keyARN })
	}
	k.arns = slices.Insert(k.arns, 0, keyARN)
}

// add adds a key and its name, and reports whether the key was known. The caller holds the lock.
func (k *keys) add(name, keyARN string) (known bool) {
	if k.known == nil {
		k.known, k.names = map[string]struct{}{}, map[string]struct{}{}
	}
	k.names[name] = struct{}{}
	_, known = k.known[keyARN]
	k.known[keyARN] = struct{}{}
	return known
}

func (k *keys) trusts(name, keyARN string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, named := k.names[name]
	_, known := k.known[keyARN]
	return named && known
}

// find returns the trusted key of an ARN, or the trusted key that is a replica of it.
func (k *keys) find(keyARN string) (string, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if _, known := k.known[keyARN]; known {
		return keyARN, true
	}
	i := slices.IndexFunc(k.arns, func(trusted string) bool { return arns.AreReplicas(keyARN, trusted) })
	if i < 0 {
		return "", false
	}
	return k.arns[i], true
}

// candidates returns the trusted keys that a request to decrypt may mean. If it names a key by its
// ID or ARN, that is the only one. If it names an alias or no key, they are the provider's own key,
// and then the other keys, the newest first.
func (k *keys) candidates(keyID string) ([]string, error) {
	if keyARN, ok := k.find(keyID); ok {
		return []string{keyARN}, nil
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, keyARN := range k.arns {
		if keyID != "" && strings.HasSuffix(keyARN, ":key/"+keyID) {
			return []string{keyARN}, nil
		}
	}
	if _, named := k.names[keyID]; keyID != "" && !named {
		return nil, fmt.Errorf("%w: %q is not among the %d keys that this provider trusts; add its ARN to TrustedKeys", provider.ErrUntrustedKey, keyID, len(k.arns))
	}
	newest := slices.Clone(k.arns)
	slices.Reverse(newest[1:])
	return newest[:min(len(newest), maxTried)], nil
}

// encryptionKey returns the key to encrypt under. If that is not the provider's own key, it has its
// name in place of its ARN.
func (p *keyring) encryptionKey(ctx context.Context) (ownKey, error) {
	if p.under == "" || p.under == p.configured {
		return p.own.Get(ctx, p.check)
	}
	if own, known := p.own.Peek(); known && (p.under == own.arn || strings.HasSuffix(own.arn, ":key/"+p.under)) {
		return own, nil
	}
	return ownKey{arn: p.under}, nil
}

// checkAnswer checks KMS's answer to a request to encrypt. If the answer is about the key that was
// asked for, the key is trusted from then on.
func (p *keyring) checkAnswer(asked, keyARN string, blob []byte) error {
	if !isAnswerFor(asked, keyARN) {
		return fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, asked, keyARN)
	}
	if len(blob) == 0 || len(blob) > math.MaxUint16 {
		return fmt.Errorf("%w: KMS answered with a ciphertext of %d bytes", provider.ErrEncryptionFailed, len(blob))
	}
	p.keys.trust(asked, keyARN)
	return nil
}

// candidates returns the keys under which to decrypt what does not name its key.
func (p *keyring) candidates(ctx context.Context) ([]string, error) {
	if keyARN, ok := p.keys.find(p.under); ok {
		return []string{keyARN}, nil
	}
	if err := p.ensureARN(ctx); err != nil {
		return nil, err
	}
	return p.keys.candidates(p.under)
}

// ensureARN makes sure that the ARN of the provider's own key is known. It asks KMS, unless the ARN
// was configured.
func (p *keyring) ensureARN(ctx context.Context) error {
	if arns.IsKey(p.configured) {
		return nil
	}
	_, err := p.own.Get(ctx, p.check)
	return err
}

// decryptTrusted decrypts under the key of Under, or tries the trusted keys one after the other.
func (p *keyring) decryptTrusted(ctx context.Context, blob []byte, encryptionContext map[string]string) ([]byte, error) {
	candidates, err := p.candidates(ctx)
	if err != nil {
		return nil, err
	}
	if own, known := p.own.Peek(); known && own.kind != symmetricKind {
		candidates = slices.DeleteFunc(candidates, func(keyARN string) bool { return keyARN == own.arn })
	}
	if len(candidates) == 0 {
		return nil, fmt.Errorf("%w: it is no message, and under an RSA or EC key there is nothing else", provider.ErrInvalidCiphertext)
	}
	var failures []error
	for _, keyARN := range candidates {
		plaintext, err := p.decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(keyARN), CiphertextBlob: blob, EncryptionContext: encryptionContext})
		if err == nil {
			return plaintext, nil
		}
		err = Judge(ctx, err)
		if len(candidates) > 1 {
			err = fmt.Errorf("key %s: %w", keyARN, err)
		}
		failures = append(failures, err)
		if !anotherMay(err) {
			break
		}
	}
	return nil, errors.Join(failures...)
}

// anotherMay reports whether another key may decrypt a ciphertext for which one key failed with
// err.
func anotherMay(err error) bool {
	_, incorrect := errors.AsType[*types.IncorrectKeyException](err)
	return incorrect || errors.Is(err, provider.ErrAccessDenied) || errors.Is(err, provider.ErrKeyDisabled) ||
		errors.Is(err, provider.ErrKeyPendingDeletion) || errors.Is(err, provider.ErrKeyNotFound) || errors.Is(err, provider.ErrKeyUsage)
}
