// Package vault is the encryption provider on the transit engine of HashiCorp Vault and OpenBao.
//
// A data key is made by the server and wrapped under a key of the engine. Its associated data is
// the message's serialised encryption context, so the wrapped key is refused under another context.
// HashiCorp Vault's datakey ignores associated data. There, the provider makes data keys from the
// system's random numbers, and the server encrypts them. The provider learns from the first answer
// which kind of server it is, and a server that binds no associated data at all is refused.
//
// In a message, a data key's provider ID is "vault-transit" and its provider information is the
// path of the key: NAMESPACE/MOUNT/KEY, or MOUNT/KEY without a namespace. The ciphertext is the
// server's text, such as "vault:v1:…", which has the version of the key. So rotation of a key
// needs nothing here. What an old version encrypted can be decrypted until the key's
// min_decryption_version excludes it. Before that, rewrap the messages for which
// IsCurrent is false.
//
// A provider uses one key. It asks the server about no other, whatever key a message names.
//
// # Keys
//
// The key must be of a type that authenticates associated data: aes128-gcm96, aes256-gcm96,
// chacha20-poly1305 or OpenBao's xchacha20-poly1305. It must not be derived, and so not convergent:
// those ask for a context of the server's own kind, and convergent keys encrypt equal data keys to
// equal ciphertexts.
//
// # Permissions
//
// These are the paths of the policy, with MOUNT and KEY replaced. Encrypting needs the first on
// OpenBao and the second on HashiCorp Vault; messages with several recipients need the second.
// Decrypting needs the third. The fourth is for GetKeyInfo and for a better check of the key.
//
//	path "MOUNT/datakey/plaintext/KEY" { capabilities = ["update"] }
//	path "MOUNT/encrypt/KEY"           { capabilities = ["update"] }
//	path "MOUNT/decrypt/KEY"           { capabilities = ["update"] }
//	path "MOUNT/keys/KEY"              { capabilities = ["read"] }
//
// HashiCorp Vault needs the first path, too. Don't give the capability create on the second, which
// makes a key that does not exist.
//
// # Memory
//
// Keys are kept in provider.SecureBytes and zeroed after use. Copies remain in the buffers of the
// HTTP connection until these are used again.
//
// # Errors
//
// If the server or the way to it fails, the error holds one of these:
//
//   - [provider.ErrProviderUnavailable]: no answer in time, a lost connection, a server that is
//     sealed, a rate limit that outlasts the retries, a fault of the server, or no such server
//   - [provider.ErrAccessDenied]: no token, one that is not valid or has expired, a login that
//     failed, or a policy that does not permit a path
//   - [provider.ErrKeyNotFound], [provider.ErrKeyDisabled], [provider.ErrKeyPendingDeletion] or
//     [provider.ErrKeyUsage]: the state or kind of the key or of its version
//   - [provider.ErrInvalidProvider]: a server that does not bind associated data
//   - [provider.ErrInvalidKey]: the configuration
//   - [provider.ErrDecryptionFailed] or [provider.ErrEncryptionFailed]: anything else
//
// If the caller's context has ended, the error holds the context's error and none of these.
package vault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/lazy"
)

// providerID is the key provider ID of the transit engine in messages.
const providerID = "vault-transit"

const providerType provider.Type = "hashicorp_vault" // of OpenBao, too

// keyring is the provider of NewProvider.
type keyring struct {
	session *session
	mount   string
	key     string
	id      string // path of the key, with its namespace
	opened  lazy.Value[struct{}]

	// Learned from the first answers. A server that ignores the associated data of datakey may bind
	// those of encrypt.
	datakeyBinds, datakeyIgnores, encryptBinds atomic.Bool
}

// NewProvider makes a provider. It logs in and checks the key by reading it. If that is not
// permitted, it makes calls to decrypt and encrypt, which change nothing, to find out whether it
// may use the key. With CheckLater, it makes no call until the key is first needed. Close the
// provider when it is not used any more: that ends the renewal of its token, which is not revoked.
//
// KeyID of the result is the path of the key, NAMESPACE/MOUNT/KEY or MOUNT/KEY. IsCurrent makes one
// or two calls of the server. The first makes a new data key, which shows the version with which
// the server wraps now. If that is the data key's own, the second unwraps the data key, since keys
// of two servers may have one path and the same versions. IsCurrent is false if the policy forbids
// that. The result has no further interfaces of package provider.
//
// The error holds one of those that the package documentation lists.
func NewProvider(ctx context.Context, c Config) (provider.Provider, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	s, err := newSession(c)
	if err != nil {
		return nil, err
	}
	p := &keyring{session: s, mount: c.Mount, key: c.Key, id: strings.TrimPrefix(c.Namespace+"/"+c.Mount+"/"+c.Key, "/")}
	if c.CheckLater {
		return p, nil
	}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(p.fail(ctx, "NewProvider", fmt.Errorf("checking the key at %s: %w", c.Address, err)), p.Close())
	}
	return p, nil
}

// open logs in and checks the key, unless that is done.
func (p *keyring) open(ctx context.Context) error {
	if p.session.ended() {
		return fmt.Errorf("the provider: %w", provider.ErrClosed)
	}
	_, err := p.opened.Get(ctx, func(ctx context.Context) (struct{}, error) {
		if err := p.session.open(ctx); err != nil {
			return struct{}{}, judge(ctx, err)
		}
		return struct{}{}, p.check(ctx)
	})
	return err
}

// check asks the server whether the key can be used.
func (p *keyring) check(ctx context.Context) error {
	k, err := p.read(ctx)
	if err == nil {
		return k.usable()
	}
	if !errors.Is(err, provider.ErrAccessDenied) {
		return err
	}
	// The policies for encryption and decryption need not permit reading the key. This text does
	// not decrypt, but the server says so, and why, only to callers that may decrypt.
	associated := []byte("check")
	_, err = p.decrypt(ctx, "vault:v1:AAAA", associated)
	if !errors.Is(err, provider.ErrAccessDenied) {
		if errors.Is(err, provider.ErrDecryptionFailed) {
			return nil
		}
		return err
	}
	plain, _, encryptErr := p.generate(ctx, associated)
	clear(plain)
	if errors.Is(encryptErr, provider.ErrAccessDenied) {
		return err
	}
	return encryptErr
}

// KeyID returns the path of the key, NAMESPACE/MOUNT/KEY or MOUNT/KEY.
func (p *keyring) KeyID() string { return p.id }

func (p *keyring) Type() provider.Type { return providerType }

// Close ends the renewal of the token and closes the connections. The provider can't be used
// afterwards. The token is not revoked.
func (p *keyring) Close() error {
	p.session.close()
	return nil
}

// GetKeyInfo describes the key with one call of the server. The error holds provider.ErrKeyNotFound
// for a keyID that is neither empty nor the key's path.
func (p *keyring) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	if keyID != "" && keyID != p.id {
		return nil, p.fail(ctx, "GetKeyInfo", fmt.Errorf("%w: this provider has key %q; make another provider for %q", provider.ErrKeyNotFound, p.id, keyID))
	}
	if err := p.open(ctx); err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", err)
	}
	k, err := p.read(ctx)
	if err != nil {
		return nil, p.fail(ctx, "GetKeyInfo", err)
	}
	return k.info(p.id), nil
}

var _ provider.Provider = (*keyring)(nil)
