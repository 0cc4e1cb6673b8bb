// Package azurekeyvault is the encryption provider on Azure Key Vault and Azure Managed HSM.
//
// Vaults make no data keys, so the provider makes them from the system's random numbers. Under an
// RSA key, of a vault or an HSM, it wraps them itself by the public half with RSA-OAEP and SHA-256,
// and the vault unwraps them. Under an AES key of 256 bits of a managed HSM (oct-HSM), the HSM
// wraps and unwraps them with A256KW, which is AES key wrap (RFC 3394). Neither algorithm takes an
// encryption context, so the SHA-384 of the serialised context is wrapped with the data key, and
// compared when it is unwrapped.
//
// In a message, a data key's provider ID is "azure-key-vault". Its provider information is the key
// identifier with the version, in small letters, such as
// "https://my-vault.vault.azure.net/keys/my-key/0123456789abcdef0123456789abcdef".
//
// A provider uses one key. It encrypts under the version of its Config, or under the current one,
// for which it asks the vault once an hour. Rotation of a key needs nothing here. A message is
// decrypted under the version that it names as long as that is enabled, even if it has expired.
// Before a version is disabled, wait for an hour, and rewrap the messages for which
// IsCurrent is false. The vault is asked about no other key, whatever a message names.
//
// # Permissions
//
// In a vault with Azure's roles, the role Key Vault Crypto Service Encryption User on the key
// suffices, and in a managed HSM the role Managed HSM Crypto Service Encryption User on /keys/KEY.
// In a vault with access policies, encrypting under an RSA key needs get, and decrypting needs
// unwrapKey. An AES key also needs wrapKey to encrypt.
//
// # Memory
//
// Keys are kept in provider.SecureBytes and zeroed after use. Copies of what was sent to a vault
// and received remain in the buffers of the HTTP connection until these are used again.
//
// # Errors
//
// If the vault or the way to it fails, the error holds one of these:
//
//   - [provider.ErrProviderUnavailable]: no answer in time, a lost connection, too many requests
//     for longer than the retries last, a fault of the vault or of Microsoft Entra ID, or no vault
//   - [provider.ErrAccessDenied]: no permission, a firewall, or credentials that are missing or not
//     valid
//   - [provider.ErrKeyNotFound]: no such key or version, or one that is purged
//   - [provider.ErrKeyPendingDeletion]: a deleted key that can be recovered. It is
//     [provider.ErrKeyNotFound] if the credentials may not see deleted keys.
//   - [provider.ErrKeyDisabled]: a version that is disabled, or to encrypt one that has expired or
//     is not valid yet
//   - [provider.ErrKeyUsage]: a key of another type, or one that may not wrap and unwrap
//   - [provider.ErrInvalidKey]: the configuration
//   - [provider.ErrDecryptionFailed] or [provider.ErrEncryptionFailed]: anything else
//
// If the caller's context has ended, the error holds the context's error and none of these.
package azurekeyvault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"piko.sh/pikokms/provider"
)

// providerID is the key provider ID of Azure Key Vault in messages.
const providerID = "azure-key-vault"

const providerType provider.Type = "azure_keyvault" // of Managed HSM, too

// keyring is the provider of NewProvider.
type keyring struct {
	client  *azkeys.Client
	own     *http.Client // nil if the configuration has a transport
	host    string
	key     string
	version string // that is configured, or empty
	id      string // key identifier without a version
	address string
	timeout time.Duration
	closed  atomic.Bool

	mu        sync.Mutex
	described *described
}

// NewProvider makes a provider and checks its key with one GetKey. If that is not permitted, it
// makes an UnwrapKey call, which changes nothing, to find out whether it may unwrap. With
// CheckLater, it makes no call. Close the provider when it is not used any more.
//
// KeyID of the result is the key identifier without a version, in small letters. GetKeyInfo
// describes the version under which the provider encrypts. IsCurrent compares the version that a
// data key names with that one. The result has no further interfaces of package provider.
//
// The error holds one of those that the package documentation lists.
func NewProvider(ctx context.Context, c Config) (provider.Provider, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	p := &keyring{host: c.Vault, key: c.Key, version: c.Version, id: c.id(), address: c.address(), timeout: c.Timeout}
	inner := c.Transport
	if inner == nil {
		p.own = newHTTPClient()
		inner = p.own
	}
	credential, err := c.newCredential(inner)
	if err != nil {
		return nil, p.fail(ctx, "NewProvider", err)
	}
	options := &azkeys.ClientOptions{DisableChallengeResourceVerification: true} // credential does it
	options.Transport = &transport{inner}
	options.Retry = policy.RetryOptions{MaxRetries: int32(min(c.MaxRetries, 1000)), TryTimeout: c.Timeout, RetryDelay: 100 * time.Millisecond}
	if p.client, err = azkeys.NewClient(p.address, credential, options); err != nil {
		return nil, p.fail(ctx, "NewProvider", fmt.Errorf("%w: %w", provider.ErrInvalidKey, err))
	}
	if c.CheckLater {
		return p, nil
	}
	if err := p.check(ctx); err != nil {
		return nil, errors.Join(p.fail(ctx, "NewProvider", fmt.Errorf("checking the key: %w", err)), p.Close())
	}
	return p, nil
}

// check asks the vault whether the key can be used.
func (p *keyring) check(ctx context.Context) error {
	_, err := p.current(ctx)
	if !errors.Is(err, provider.ErrAccessDenied) {
		return err
	}
	// An access policy that only decrypts does not permit GetKey. This value does not unwrap, but
	// the vault says so only to callers that may unwrap.
	if _, unwrapErr := p.unwrap(ctx, p.version, make([]byte, minRSABits/8)); !errors.Is(unwrapErr, provider.ErrDecryptionFailed) {
		return err
	}
	return nil
}

// KeyID returns the key identifier without a version, in small letters.
func (p *keyring) KeyID() string { return p.id }

func (p *keyring) Type() provider.Type { return providerType }

// Close closes the connections to the vault. The provider can't be used afterwards.
func (p *keyring) Close() error {
	p.closed.Store(true)
	if p.own != nil {
		p.own.CloseIdleConnections()
	}
	return nil
}

// GetKeyInfo describes the version under which the provider encrypts, with one GetKey. The error
// holds provider.ErrKeyNotFound for a keyID that is neither empty nor the key's identifier.
func (p *keyring) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	if !strings.EqualFold(cmp.Or(keyID, p.id), p.id) {
		return nil, p.fail(ctx, "GetKeyInfo", fmt.Errorf("%w: this provider has key %q; make another provider for %q", provider.ErrKeyNotFound, p.id, keyID))
	}
	v, err := p.describe(ctx, p.version)
	if err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", err)
	}
	return v.info(p.id), nil
}

var _ provider.Provider = (*keyring)(nil)
