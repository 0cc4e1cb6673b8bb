package main

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
)

// key is a KEY of the configuration.
type key struct {
	url         string // without its secrets
	provider    provider.EncryptionProvider
	name        string   // of encrypted data keys that are under it, as message.KeyName has it
	providerIDs []string // which those may have
}

// schemes has a function for each scheme of KEYs. None of them asks a key service.
var schemes = map[string]func(ctx context.Context, u *url.URL, retries int) (*key, error){
	awskms.Scheme:    openKMS,
	branchkey.Scheme: openBranchKey,
}

// openKey opens a KEY. Services are asked up to attempts times; 0 means the default.
func openKey(ctx context.Context, text string, attempts int) (*key, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL; a KEY is awskms:///ARN or branchkey://TABLE/ID?key=ARN", provider.RedactURL(text))
	}
	open := schemes[u.Scheme]
	if open == nil {
		return nil, fmt.Errorf("%q has the unknown scheme %q; known are %s", provider.RedactURL(u.String()), u.Scheme, strings.Join(slices.Sorted(maps.Keys(schemes)), ", "))
	}
	k, err := open(ctx, u, max(0, attempts-1))
	if err != nil {
		return nil, err
	}
	k.url = provider.RedactURL(u.String())
	return k, nil
}

// openKMS opens a key of AWS KMS. It must be named by its ARN: an alias would take a further
// permission and call, and objects name their key by its ARN.
func openKMS(ctx context.Context, u *url.URL, retries int) (*key, error) {
	c, err := awskms.ParseURL(u)
	if err != nil {
		return nil, err
	}
	if a, err := arn.Parse(c.KeyID); err != nil || !strings.HasPrefix(a.Resource, "key/") {
		return nil, fmt.Errorf("%w: %q does not name the key by its ARN; write awskms:///arn:aws:kms:REGION:ACCOUNT:key/ID", provider.ErrInvalidKey, provider.RedactURL(u.String()))
	}
	c.CheckLater, c.MaxRetries = true, retries
	p, err := awskms.NewProvider(ctx, c)
	if err != nil {
		return nil, err
	}
	return &key{provider: p, name: c.KeyID, providerIDs: []string{"aws-kms", "aws-kms-rsa"}}, nil
}

// openBranchKey opens one branch key of a table in DynamoDB.
func openBranchKey(ctx context.Context, u *url.URL, retries int) (*key, error) {
	c, err := branchkey.ParseURL(u)
	if err != nil {
		return nil, err
	}
	if c.File != "" || c.BranchKeyID == "" || c.By != "" {
		return nil, fmt.Errorf("%w: %q does not name one branch key of a table; write branchkey://TABLE/ID?key=ARN", provider.ErrInvalidKey, provider.RedactURL(u.String()))
	}
	c.KMS.MaxRetries, c.Table.MaxRetries = retries, retries
	p, err := c.Open(ctx, func(config *branchkey.Config) { config.CheckLater = true })
	if err != nil {
		return nil, err
	}
	return &key{provider: p, name: c.BranchKeyID, providerIDs: []string{branchkey.ProviderID}}, nil
}

// isUnder reports whether a message states that it is as a host writes it today, under this key
// alone. That is not authenticated.
func (k *key) isUnder(h *header.Header) bool {
	if h.Suite != header.AES256GCMHKDFSHA512CommitKey || len(h.EncryptedDataKeys) != 1 {
		return false
	}
	wrapped := h.EncryptedDataKeys[0]
	return slices.Contains(k.providerIDs, wrapped.ProviderID) && message.KeyName(wrapped) == k.name
}

// isCurrent reports whether a message that is under this key is under its newest version.
func (k *key) isCurrent(ctx context.Context, h *header.Header) (bool, error) {
	return (&message.Encrypter{Keyring: k.provider}).IsCurrent(ctx, h, nil)
}
