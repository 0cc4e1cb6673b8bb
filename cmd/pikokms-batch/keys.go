package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/keyurl"
)

// key is a KEY of the configuration.
type key struct {
	url      string // without its secrets
	name     string // as reports have it
	provider provider.EncryptionProvider

	// Data keys under this key state these: a name, as message.KeyName returns it, and a provider ID.
	// If the URL does not say them, they are empty until a data key is wrapped to learn them.
	mu          sync.Mutex
	stated      string
	providerIDs []string
}

// openKey opens a KEY, and asks no key service. Services are asked up to attempts times; 0 means
// the default.
func openKey(ctx context.Context, text string, attempts int) (*key, error) {
	parsed, err := keyurl.Parse(text, keyservices.All()...)
	if err != nil {
		return nil, err
	}
	k := &key{url: parsed.String(), name: parsed.String()}
	switch parsed.Service.Scheme {
	case awskms.KeyService.Scheme:
		err = k.nameKMSKey(parsed)
	case branchkey.KeyService.Scheme:
		err = k.nameBranchKey(parsed)
	}
	if err != nil {
		return nil, err
	}
	keyring, err := parsed.Open(ctx, keyurl.Options{CheckLater: true, MaxRetries: max(0, attempts-1)})
	if err != nil {
		return nil, err
	}
	p, ok := keyring.(provider.EncryptionProvider)
	if !ok {
		return nil, fmt.Errorf("%w: %s only decrypts", provider.ErrKeyUsage, parsed)
	}
	k.provider = p
	return k, nil
}

// nameKMSKey names a key of AWS KMS. It must be named by its ARN: an alias would take a further
// permission and call, and objects name their key by its ARN.
func (k *key) nameKMSKey(parsed *keyurl.Key) error {
	c, err := awskms.ParseURL(parsed.URL)
	if err != nil {
		return err
	}
	if a, err := arn.Parse(c.KeyID); err != nil || !strings.HasPrefix(a.Resource, "key/") {
		return fmt.Errorf("%w: %q does not name the key by its ARN; write awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID", provider.ErrInvalidKey, parsed)
	}
	k.name, k.stated, k.providerIDs = c.KeyID, c.KeyID, []string{"aws-kms", "aws-kms-rsa"}
	return nil
}

// nameBranchKey names one branch key of a table in DynamoDB.
func (k *key) nameBranchKey(parsed *keyurl.Key) error {
	c, err := branchkey.ParseURL(parsed.URL)
	if err != nil {
		return err
	}
	if parsed.Local || parsed.Pair != "" || c.BranchKeyID == "" {
		return fmt.Errorf("%w: %q does not name one branch key of a table; write branchkey://TABLE/ID?key=ARN", provider.ErrInvalidKey, parsed)
	}
	k.name, k.stated, k.providerIDs = c.BranchKeyID, c.BranchKeyID, branchkey.KeyService.ProviderIDs
	return nil
}

// wraps reports whether the encrypted data key with this index states that it is under this key.
// The statement is not authenticated. Under an EC key it has public keys, so AWS KMS is asked for
// this key's once.
func (k *key) wraps(ctx context.Context, h *header.Header, index int) (bool, error) {
	encrypted := h.EncryptedDataKeys[index]
	if encrypted.ProviderID == "aws-kms-ecdh" || encrypted.ProviderID == "raw-ecdh" {
		return k.isCurrent(ctx, h, index)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.providerIDs) == 0 {
		dataKey, err := k.provider.GenerateDataKey(ctx, nil)
		if err != nil {
			return false, err
		}
		k.stated, k.providerIDs = message.KeyName(dataKey.EncryptedKey), []string{dataKey.EncryptedKey.ProviderID}
		if err := dataKey.Close(); err != nil {
			return false, err
		}
	}
	return slices.Contains(k.providerIDs, encrypted.ProviderID) && message.KeyName(encrypted) == k.stated, nil
}

// isCurrent reports whether the encrypted data key with this index is under this key, in its newest
// version.
func (k *key) isCurrent(ctx context.Context, h *header.Header, index int) (bool, error) {
	single := *h
	single.EncryptedDataKeys = h.EncryptedDataKeys[index : index+1]
	return (&message.Encrypter{Keyring: k.provider}).IsCurrent(ctx, &single, nil)
}

// isUnder reports whether a message states that it is as a host would write it today, under these
// keys and no others. The statement is not authenticated.
func (f *function) isUnder(ctx context.Context, h *header.Header) (bool, error) {
	if h.Suite != header.AES256GCMHKDFSHA512CommitKey || len(h.EncryptedDataKeys) != 1+len(f.recovery) {
		return false, nil
	}
	for i, k := range append([]*key{f.key}, f.recovery...) {
		if wraps, err := k.wraps(ctx, h, i); err != nil || !wraps {
			return false, err
		}
	}
	return true, nil
}
