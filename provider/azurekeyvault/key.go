package azurekeyvault

import (
	"context"
	"crypto/rsa"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/lazy"
)

// describedFor is how long a provider uses the version that the vault named before it asks again.
const describedFor = time.Hour

// minRSABits is the shortest modulus of vaults in bits (Azure Key Vault documentation, "Key types,
// algorithms, and operations").
const minRSABits = 2048

// keyVersion is a version of a key, as its vault described it.
type keyVersion struct {
	bundle  azkeys.KeyBundle
	version string
	public  *rsa.PublicKey // nil for an AES key
}

// described is the version under which to encrypt, and the time at which the vault was asked for
// it.
type described struct {
	lazy.Value[*keyVersion]
	at time.Time
}

// current returns the version under which to encrypt: the one that is configured, or the key's
// current one. It asks the vault at most once an hour, and again when the version has expired.
func (p *keyring) current(ctx context.Context) (*keyVersion, error) {
	p.mu.Lock()
	cached := p.described
	if cached == nil || time.Since(cached.at) >= describedFor || cached.expired() {
		cached = &described{at: time.Now()}
		p.described = cached
	}
	p.mu.Unlock()
	v, err := cached.Get(ctx, func(ctx context.Context) (*keyVersion, error) { return p.describe(ctx, p.version) })
	if err != nil {
		return nil, err
	}
	return v, v.usable(time.Now())
}

func (d *described) expired() bool {
	v, known := d.Peek()
	return known && v.bundle.Attributes.Expires != nil && !time.Now().Before(*v.bundle.Attributes.Expires)
}

// describe asks the vault about a version of the key, or about the current one.
func (p *keyring) describe(ctx context.Context, version string) (*keyVersion, error) {
	answer, err := ask(ctx, p, getKey, new(exchange), func(ctx context.Context) (azkeys.GetKeyResponse, error) {
		return p.client.GetKey(ctx, p.key, version, nil)
	})
	if err != nil {
		return nil, err
	}
	v := &keyVersion{bundle: answer.KeyBundle}
	if answer.Key == nil || answer.Key.Kty == nil || answer.Attributes == nil {
		return nil, errNoVault
	}
	if v.version, err = p.versionOf(answer.Key.KID, version); err != nil {
		return nil, err
	}
	if isRSA(*answer.Key.Kty) {
		v.public, err = publicKey(answer.Key)
	}
	return v, err
}

func isRSA(kty azkeys.KeyType) bool {
	return kty == azkeys.KeyTypeRSA || kty == azkeys.KeyTypeRSAHSM
}

func isAES(kty azkeys.KeyType) bool {
	return kty == azkeys.KeyTypeOct || kty == azkeys.KeyTypeOctHSM
}

// versionOf returns the version of the key that an answer is about. If one was asked for, it is
// that one.
func (p *keyring) versionOf(kid *azkeys.ID, asked string) (string, error) {
	if kid == nil {
		return "", errNoVault
	}
	_, path, _ := strings.Cut(strings.ToLower(string(*kid)), "://")
	_, path, _ = strings.Cut(path, "/")
	got, ok := strings.CutPrefix(path, "keys/"+p.key+"/")
	if !ok || !versionID.MatchString(got) || asked != "" && got != asked {
		return "", fmt.Errorf("%w: the vault was asked about key %s version %q and answered about %q", provider.ErrInvalidKey, p.key, asked, string(*kid))
	}
	return got, nil
}

// publicKey returns the public half of an RSA key.
func publicKey(key *azkeys.JSONWebKey) (*rsa.PublicKey, error) {
	const maxRSABits = 16384
	n, e := new(big.Int).SetBytes(key.N), new(big.Int).SetBytes(key.E)
	switch {
	case n.BitLen() < minRSABits || n.BitLen() > maxRSABits:
		return nil, fmt.Errorf("%w: its modulus has %d bits, those of vaults have at least %d", provider.ErrInvalidKey, n.BitLen(), minRSABits)
	case !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0:
		return nil, fmt.Errorf("%w: its public exponent is not an odd number of 3 to 2³¹-1", provider.ErrInvalidKey)
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// usable returns an error that says why data keys cannot be wrapped under a version, or nil. Under
// an RSA key, the provider wraps without the vault, which would refuse some of these versions.
func (v *keyVersion) usable(now time.Time) error {
	attributes, key := v.bundle.Attributes, v.bundle.Key
	switch {
	case !isRSA(*key.Kty) && !isAES(*key.Kty):
		return fmt.Errorf("%w: it is of type %q; data keys take an RSA key, or an AES key of a managed HSM", provider.ErrKeyUsage, *key.Kty)
	case !permits(key, azkeys.KeyOperationWrapKey) || !permits(key, azkeys.KeyOperationUnwrapKey):
		return fmt.Errorf("%w: the key's permitted operations lack wrapKey or unwrapKey", provider.ErrKeyUsage)
	case attributes.Enabled != nil && !*attributes.Enabled:
		return fmt.Errorf("%w: version %s is disabled; enable it to use it", provider.ErrKeyDisabled, v.version)
	case attributes.NotBefore != nil && now.Before(*attributes.NotBefore):
		return fmt.Errorf("%w: version %s is not valid before %s", provider.ErrKeyDisabled, v.version, attributes.NotBefore.UTC().Format(time.RFC3339))
	case attributes.Expires != nil && !now.Before(*attributes.Expires):
		return fmt.Errorf("%w: version %s expired at %s, so it only decrypts; make a new version", provider.ErrKeyDisabled, v.version, attributes.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// permits reports whether a key permits an operation. A key that lists none permits all.
func permits(key *azkeys.JSONWebKey, operation azkeys.KeyOperation) bool {
	return len(key.KeyOps) == 0 || slices.ContainsFunc(key.KeyOps, func(o *azkeys.KeyOperation) bool { return o != nil && *o == operation })
}

// info describes the version.
func (v *keyVersion) info(id string) *provider.KeyInfo {
	attributes, key := v.bundle.Attributes, v.bundle.Key
	info := &provider.KeyInfo{
		KeyID:     id,
		Algorithm: string(*key.Kty),
		Err:       v.usable(time.Now()),
		Origin:    "AZURE_KEY_VAULT",
		Metadata:  map[string]string{"version": v.version, "key_type": string(*key.Kty)},
	}
	if v.public != nil {
		info.Algorithm = fmt.Sprintf("RSA-%d", v.public.N.BitLen())
	}
	if attributes.Created != nil {
		info.CreatedAt = *attributes.Created
	}
	if attributes.NotBefore != nil {
		info.Metadata["not_before"] = attributes.NotBefore.UTC().Format(time.RFC3339)
	}
	if attributes.Expires != nil {
		info.Metadata["expires"] = attributes.Expires.UTC().Format(time.RFC3339)
	}
	if attributes.RecoveryLevel != nil {
		info.Metadata["recovery_level"] = *attributes.RecoveryLevel
	}
	return info
}
