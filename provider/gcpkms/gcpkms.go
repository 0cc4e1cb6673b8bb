// Package gcpkms is the encryption provider on Google Cloud KMS.
//
// Cloud KMS makes no data keys, so the provider makes them from the system's random numbers, and
// Cloud KMS encrypts them under the primary version of a symmetric key. The additional
// authenticated data of each call is the message's serialised encryption context. Every call
// carries CRC32C checksums, and both sides check them (Cloud KMS documentation, "Verifying
// end-to-end data integrity").
//
// In a message, a data key's provider ID is "gcp-kms" and its provider information is the resource
// name of the CryptoKey, without a version. The ciphertext is Cloud KMS's, which finds the version.
// So rotation of a key needs nothing here. What an old version encrypted can be decrypted for as
// long as that version is enabled. Before it is disabled, rewrap the messages for which
// IsCurrent is false.
//
// A provider encrypts under its own key, or under the key that a request names. To decrypt, it asks
// Cloud KMS only about keys that it trusts. Those are its own key, the TrustedKeys of its Config
// and the keys that requests to encrypt have named. A message or a request to decrypt does not make
// a key trusted by naming it.
//
// # Permissions
//
// The role roles/cloudkms.cryptoKeyEncrypterDecrypter on the key suffices. To encrypt only, it is
// roles/cloudkms.cryptoKeyEncrypter, and to decrypt only, roles/cloudkms.cryptoKeyDecrypter.
// Describing the key needs cloudkms.cryptoKeys.get, which roles/cloudkms.viewer has.
//
// # Memory
//
// Keys are kept in provider.SecureBytes and zeroed after use. Copies remain in messages that gRPC
// sent and received, whose memory Go frees, until that memory is used again.
//
// # Errors
//
// If Cloud KMS or the way to it fails, the error holds one of these:
//
//   - [provider.ErrProviderUnavailable]: no answer in time, a lost connection, an exhausted quota
//     that outlasts the retries, a fault of Cloud KMS, or answers that arrive damaged
//   - [provider.ErrAccessDenied]: no permission, an API that is not enabled, or credentials that
//     are missing or not valid
//   - [provider.ErrKeyNotFound], [provider.ErrKeyDisabled], [provider.ErrKeyPendingDeletion] or
//     [provider.ErrKeyUsage]: the state or kind of the key or of its version. A version that is
//     destroyed is not found.
//   - [provider.ErrInvalidKey]: the configuration
//   - [provider.ErrDecryptionFailed] or [provider.ErrEncryptionFailed]: anything else
//
// If the caller's context has ended, the error holds the context's error and none of these.
package gcpkms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"

	"piko.sh/pikokms/provider"
)

// providerID is the key provider ID of Cloud KMS in messages.
const providerID = "gcp-kms"

const providerType provider.Type = "gcp_kms"

// keyring is the provider of NewProvider.
type keyring struct {
	client       *kms.KeyManagementClient
	sharesClient bool   // whether the client is that of the provider whose Under made this one
	own          string // resource name of the provider's own key
	address      string // of Cloud KMS, as the client has it
	maxRetries   int
	timeout      time.Duration
	keys         *keys
	under        string // key ID of Under; empty for the provider's own key
}

// NewProvider makes a provider and checks its key with one GetCryptoKey. If that is not permitted,
// it makes calls of Decrypt and Encrypt, which change nothing, to find out whether it may use the
// key. With CheckLater, it makes no call. The options are those of Google's clients. Close the
// provider when it is not used any more.
//
// The result is also a [provider.DirectEncrypter] for values of up to 4,096 bytes, a
// [provider.KeySelector] and a [provider.PikoV2Keyring]. A value does not name its key, so to
// decrypt one, the provider tries the keys that it trusts, 16 at most.
//
// KeyID of the result is the key's resource name. GetKeyInfo describes any key that the credentials
// may describe, with one GetCryptoKey; Err of the description is about the key's primary version.
// IsCurrent decrypts a data key, since only Cloud KMS knows the version of a ciphertext.
//
// The error holds one of those that the package documentation lists.
func NewProvider(ctx context.Context, c Config, options ...option.ClientOption) (provider.Provider, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	client, err := c.newClient(ctx, options)
	if err != nil {
		return nil, &provider.EncryptionError{Operation: "NewProvider", Provider: string(providerType), KeyID: c.resourceName(), Err: err}
	}
	p := &keyring{
		client: client, own: c.resourceName(), address: addressOf(client), keys: new(keys),
		maxRetries: cmp.Or(c.MaxRetries, defaultMaxRetries), timeout: cmp.Or(c.Timeout, defaultTimeout),
	}
	p.keys.trust(p.own)
	for _, name := range c.TrustedKeys {
		p.keys.trust(name)
	}
	if c.CheckLater {
		return p, nil
	}
	if err := p.check(ctx); err != nil {
		return nil, errors.Join(p.fail(ctx, "NewProvider", p.own, fmt.Errorf("checking the key: %w", err)), client.Close())
	}
	return p, nil
}

// addressOf returns the address that a client asks, wherever it was configured.
func addressOf(client *kms.KeyManagementClient) string {
	//lint:ignore SA1019 It may be any of a pool of connections, which all have one target.
	target := client.Connection().Target()
	return target[strings.LastIndex(target, "/")+1:]
}

// check asks Cloud KMS whether the provider's own key can be used.
func (p *keyring) check(ctx context.Context) error {
	key, err := p.describe(ctx, p.own)
	if err == nil {
		return usable(key)
	}
	if !errors.Is(err, provider.ErrAccessDenied) {
		return err
	}
	// The roles for encryption and decryption don't permit GetCryptoKey. A ciphertext of one byte
	// does not decrypt, but Cloud KMS says so only to callers that may decrypt.
	_, err = p.decrypt(ctx, p.own, []byte{0}, nil)
	if !errors.Is(err, provider.ErrAccessDenied) {
		return unless(err, provider.ErrDecryptionFailed)
	}
	if _, encryptErr := p.encrypt(ctx, p.own, []byte{0}, nil); !errors.Is(encryptErr, provider.ErrAccessDenied) {
		return encryptErr
	}
	return err
}

// unless returns err, or nil if it holds expected.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// Under implements provider.KeySelector.
func (p *keyring) Under(keyID string) provider.Provider {
	other := *p
	other.under, other.sharesClient = keyID, true
	return &other
}

// KeyID returns the resource name of the key. For a provider of Under, it returns the key ID that
// was given.
func (p *keyring) KeyID() string { return cmp.Or(p.under, p.own) }

func (p *keyring) Type() provider.Type { return providerType }

// Close closes the connections to Cloud KMS, unless the provider is one of Under.
func (p *keyring) Close() error {
	if p.sharesClient {
		return nil
	}
	return p.client.Close()
}

// describe returns Cloud KMS's description of a key.
func (p *keyring) describe(ctx context.Context, name string) (*kmspb.CryptoKey, error) {
	key, err := call(ctx, p, "GetCryptoKey", name, func(ctx context.Context) (*kmspb.CryptoKey, error) {
		return p.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: name}, noRetries)
	})
	if err != nil {
		return nil, err
	}
	if key.GetName() != name {
		return nil, fmt.Errorf("%w: Cloud KMS was asked about key %q and answered about %q", provider.ErrInvalidKey, name, key.GetName())
	}
	return key, nil
}

// GetKeyInfo describes a key with one GetCryptoKey: the provider's own if keyID is empty, or any
// other that the credentials may describe. Err of the result is about the key's primary version.
func (p *keyring) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	name, err := p.named(keyID)
	if err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", keyID, err)
	}
	key, err := p.describe(ctx, name)
	if err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", name, err)
	}
	return keyInfo(key), nil
}

var (
	_ provider.KeySelector     = (*keyring)(nil)
	_ provider.DirectEncrypter = (*keyring)(nil)
)
