package azurekeyvault

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"piko.sh/pikokms/provider"
)

// errNoVault is the error of an answer that vaults do not give.
var errNoVault = fmt.Errorf("%w: this is no answer of a vault; check the endpoint and proxies on the way", provider.ErrProviderUnavailable)

// ask makes a call. Azure's client makes it again after errors that may pass, and waits as long as
// Retry-After says, up to a minute. The error is one of those that the package documentation lists.
func ask[T any](ctx context.Context, p *keyring, op operation, call *exchange, do func(context.Context) (T, error)) (T, error) {
	if p.closed.Load() {
		var none T
		return none, fmt.Errorf("the provider: %w", provider.ErrClosed)
	}
	call.caller = ctx
	answer, err := do(context.WithValue(ctx, exchangeKey{}, call))
	if err == nil {
		return answer, nil
	}
	err = p.judge(ctx, op, err)
	if errors.Is(err, provider.ErrKeyNotFound) && op != getDeletedKey {
		err = p.deleted(ctx, err)
	}
	return answer, err
}

// deleted returns the error for a key that is not found. If the vault keeps it as deleted, the
// error says so.
func (p *keyring) deleted(ctx context.Context, notFound error) error {
	key, err := ask(ctx, p, getDeletedKey, new(exchange), func(ctx context.Context) (azkeys.GetDeletedKeyResponse, error) {
		return p.client.GetDeletedKey(ctx, p.key, nil)
	})
	switch {
	case err != nil:
		return notFound // nothing more is known
	case key.ScheduledPurgeDate == nil:
		return fmt.Errorf("%w: the key is deleted; recover it to use it: %w", provider.ErrKeyPendingDeletion, notFound)
	}
	return fmt.Errorf("%w: the key is deleted; recover it before %s to use it", provider.ErrKeyPendingDeletion, key.ScheduledPurgeDate.UTC().Format("2006-01-02"))
}

// wrap wraps a value under a version: here by the public half of an RSA key, and in the vault by an
// AES key.
func (p *keyring) wrap(ctx context.Context, v *keyVersion, value []byte) ([]byte, error) {
	if v.public != nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, v.public, value, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
		}
		return ciphertext, nil
	}
	call := &exchange{algorithm: string(azkeys.EncryptionAlgorithmA256KW), sent: value}
	answer, err := ask(ctx, p, wrapKey, call, func(ctx context.Context) (azkeys.WrapKeyResponse, error) {
		return p.client.WrapKey(ctx, p.key, v.version, azkeys.KeyOperationParameters{
			Algorithm: to.Ptr(azkeys.EncryptionAlgorithmA256KW), Value: placeholder,
		}, nil)
	})
	if err != nil {
		return nil, err
	}
	if _, err := p.versionOf(answer.KID, v.version); err != nil {
		return nil, err
	}
	if n := len(answer.Result); n == 0 || n > maxWrappedAES || n > math.MaxUint16 {
		return nil, fmt.Errorf("%w: the vault answered with a ciphertext of %d bytes", provider.ErrEncryptionFailed, n)
	}
	return answer.Result, nil
}

// placeholder stands in a request until the transport puts in the value.
var placeholder = []byte("value")

// unwrap asks the vault to unwrap a value under a version. The caller clears the result.
func (p *keyring) unwrap(ctx context.Context, version string, wrapped []byte) ([]byte, error) {
	algorithm := azkeys.EncryptionAlgorithmRSAOAEP256
	if len(wrapped) <= maxWrappedAES {
		algorithm = azkeys.EncryptionAlgorithmA256KW
	}
	call := &exchange{takes: true}
	answer, err := ask(ctx, p, unwrapKey, call, func(ctx context.Context) (azkeys.UnwrapKeyResponse, error) {
		return p.client.UnwrapKey(ctx, p.key, version, azkeys.KeyOperationParameters{Algorithm: &algorithm, Value: wrapped}, nil)
	})
	if err == nil && len(call.taken) == 0 {
		err = errNoVault
	}
	if err == nil {
		_, err = p.versionOf(answer.KID, version)
	}
	if err != nil {
		clear(call.taken)
		return nil, err
	}
	return call.taken, nil
}
