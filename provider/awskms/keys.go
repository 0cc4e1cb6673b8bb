package awskms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"piko.sh/pikokms/provider"
)

// maxTried is the number of keys that a ciphertext without a key's name is tried under at most.
const maxTried = 16

// keys are the keys that a Provider trusts: its own, those of Config.TrustedKeys, and those that
// requests to encrypt have named. What a ciphertext or a request to decrypt names adds none.
type keys struct {
	mu    sync.RWMutex
	arns  []string            // each key once, the provider's own first
	known map[string]struct{} // the same
	names map[string]struct{} // aliases and IDs that a configuration or a request to encrypt gave
}

// trust adds the key of an ARN, under the name that it was asked by.
func (k *keys) trust(name, keyARN string) {
	if k.trusts(name, keyARN) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known, k.names = map[string]struct{}{}, map[string]struct{}{}
	}
	k.names[name] = struct{}{}
	if _, known := k.known[keyARN]; !known {
		k.known[keyARN] = struct{}{}
		k.arns = append(k.arns, keyARN)
	}
}

func (k *keys) trusts(name, keyARN string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	_, named := k.names[name]
	_, known := k.known[keyARN]
	return named && known
}

// find returns the trusted key that an ARN names, or the replica of it that is trusted.
func (k *keys) find(keyARN string) (string, bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if _, known := k.known[keyARN]; known {
		return keyARN, true
	}
	i := slices.IndexFunc(k.arns, func(trusted string) bool { return sameKey(keyARN, trusted) })
	if i < 0 {
		return "", false
	}
	return k.arns[i], true
}

// candidates returns the trusted keys that a request to decrypt may mean: the one that its key ID
// names, or without a name, or with an alias, the provider's own and then the newest.
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

// encryptionKey returns the name by which to ask KMS for the key of a request to encrypt.
func (p *Provider) encryptionKey(keyID string) string {
	if keyID == "" || keyID == p.keyID || strings.HasSuffix(p.arn, ":key/"+keyID) {
		return p.arn
	}
	return keyID
}

// answered trusts the key that KMS encrypted under, if it is the one that was asked for.
func (p *Provider) answered(asked, keyARN string) error {
	got, err := arn.Parse(keyARN)
	isARN, isAlias := strings.HasPrefix(asked, "arn:"), strings.Contains(asked, "alias/")
	switch {
	case err != nil || got.Service != "kms" || !strings.HasPrefix(got.Resource, "key/"),
		!isAlias && isARN && keyARN != asked,
		!isAlias && !isARN && got.Resource != "key/"+asked:
		return fmt.Errorf("%w: KMS answered for key %q", provider.ErrEncryptionFailed, keyARN)
	}
	p.keys.trust(asked, keyARN)
	return nil
}

// decryptTrusted decrypts under the trusted key that a request names, or tries the trusted keys
// one after the other.
func (p *Provider) decryptTrusted(ctx context.Context, keyID string, blob []byte, encryptionContext map[string]string) ([]byte, error) {
	candidates, err := p.keys.candidates(keyID)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, keyARN := range candidates {
		plaintext, err := p.decrypt(ctx, keyARN, blob, encryptionContext)
		if err == nil {
			return plaintext, nil
		}
		if s := sentinel(ctx, err); s != nil {
			err = fmt.Errorf("%w: %w", s, err)
		}
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

// anotherMay reports whether a decryption that failed under one key may succeed under another.
func anotherMay(err error) bool {
	_, incorrect := errors.AsType[*types.IncorrectKeyException](err)
	return incorrect || errors.Is(err, provider.ErrAccessDenied) || errors.Is(err, provider.ErrKeyDisabled) ||
		errors.Is(err, provider.ErrKeyPendingDeletion) || errors.Is(err, provider.ErrKeyNotFound)
}

// requested is a Provider that makes the data key of one message under the key that a request
// names.
type requested struct {
	*Provider
	keyID string
	arn   string // of the key, once a data key is made
}

func (r *requested) GenerateDataKey(ctx context.Context, request *provider.GenerateDataKeyRequest) (*provider.DataKey, error) {
	named := *request
	named.KeyID = r.keyID
	key, err := r.Provider.GenerateDataKey(ctx, &named)
	if err == nil {
		r.arn = key.KeyID
	}
	return key, err
}
