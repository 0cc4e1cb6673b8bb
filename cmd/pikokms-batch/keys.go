package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/keyurl"
)

// key is a KEY of the configuration.
type key struct {
	url         string // without its secrets
	provider    provider.EncryptionProvider
	name        string   // of encrypted data keys that are under it, as message.KeyName has it
	providerIDs []string // which those may have
}

// services are the key services of KEYs.
var services = keyurl.Services{awskms.KeyService, branchkey.KeyService}

// openKey opens a KEY, and asks no key service. Services are asked up to attempts times; 0 means
// the default.
func openKey(ctx context.Context, text string, attempts int) (*key, error) {
	parsed, err := services.Parse(text)
	if err != nil {
		return nil, err
	}
	k := &key{url: parsed.String()}
	if parsed.Service.Scheme == branchkey.KeyService.Scheme {
		err = k.nameBranchKey(parsed)
	} else {
		err = k.nameKMSKey(parsed)
	}
	if err != nil {
		return nil, err
	}
	keyring, err := parsed.Open(ctx, keyurl.Options{CheckLater: true, MaxRetries: max(0, attempts-1)})
	if err != nil {
		return nil, err
	}
	k.provider = keyring.(provider.EncryptionProvider)
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
	k.name, k.providerIDs = c.KeyID, []string{"aws-kms", "aws-kms-rsa"}
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
	k.name, k.providerIDs = c.BranchKeyID, []string{branchkey.ProviderID}
	return nil
}

// isUnder reports whether a message states that it is as a host writes it today, under this key
// alone. That is not authenticated. A message under an EC key names public keys, so AWS KMS is
// asked once for this key's.
func (k *key) isUnder(ctx context.Context, h *header.Header) (bool, error) {
	if h.Suite != header.AES256GCMHKDFSHA512CommitKey || len(h.EncryptedDataKeys) != 1 {
		return false, nil
	}
	wrapped := h.EncryptedDataKeys[0]
	if wrapped.ProviderID == "raw-ecdh" || wrapped.ProviderID == "aws-kms-ecdh" {
		return k.isCurrent(ctx, h)
	}
	return slices.Contains(k.providerIDs, wrapped.ProviderID) && message.KeyName(wrapped) == k.name, nil
}

// isCurrent reports whether a message that is under this key is under its newest version.
func (k *key) isCurrent(ctx context.Context, h *header.Header) (bool, error) {
	return (&message.Encrypter{Keyring: k.provider}).IsCurrent(ctx, h, nil)
}
