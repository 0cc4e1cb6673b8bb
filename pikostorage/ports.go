package pikostorage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
)

// encrypted is a storage.ProviderPort.
type encrypted struct {
	inner storage.ProviderPort
	host  *pikokms.Host

	hash atomic.Uint32 // a crypto.Hash, or 0 until it is known
	seen seen

	closing sync.Once
	closed  error
}

var _ storage.ProviderPort = (*encrypted)(nil)

// Unwrap returns the inner provider, which Piko asks for its health and capabilities.
func (e *encrypted) Unwrap() storage.ProviderPort { return e.inner }

// described is an optional port by which Piko shows a provider.
type described interface {
	GetProviderType() string
	GetProviderMetadata() map[string]any
}

// describing is an encrypted provider whose inner provider describes itself.
type describing struct {
	*encrypted
	described
}

// GetProviderMetadata adapts the inner provider's description to encryption.
func (d describing) GetProviderMetadata() map[string]any {
	metadata := maps.Clone(d.described.GetProviderMetadata())
	if metadata == nil {
		metadata = make(map[string]any)
	}
	metadata["encryption"] = string(d.host.CryptoService().Type())
	if _, stated := metadata["supports_presigned"]; stated {
		metadata["supports_presigned"] = false
	}
	return metadata
}

// withDescription returns e with the inner provider's description, if it has one. It leaves out
// Piko's other optional port, ListKeys: only the garbage collector of Piko's asset registry calls
// it, and deletes each key that is no asset, which an application's objects are not.
func withDescription(e *encrypted) storage.ProviderPort {
	if d, ok := e.inner.(described); ok {
		return describing{e, d}
	}
	return e
}

func (e *encrypted) Remove(ctx context.Context, params storage.GetParams) error {
	return e.inner.Remove(ctx, params)
}

func (e *encrypted) RemoveMany(ctx context.Context, params storage.RemoveManyParams) (*storage.BatchResult, error) {
	return e.inner.RemoveMany(ctx, params)
}

func (e *encrypted) Exists(ctx context.Context, params storage.GetParams) (bool, error) {
	return e.inner.Exists(ctx, params)
}

func (e *encrypted) PresignURL(_ context.Context, params storage.PresignParams) (string, error) {
	return "", fmt.Errorf("presign the upload of %s: %w", params.Key, ErrPresigned)
}

func (e *encrypted) PresignDownloadURL(_ context.Context, params storage.PresignDownloadParams) (string, error) {
	return "", fmt.Errorf("presign the download of %s: %w", params.Key, ErrPresigned)
}

// Close zeroes cached data keys and closes the inner provider, once. Piko closes a provider several
// times, and more often if it is registered under two names.
func (e *encrypted) Close(ctx context.Context) error {
	e.closing.Do(func() { e.closed = errors.Join(e.host.Close(), e.inner.Close(ctx)) })
	return e.closed
}

func (e *encrypted) SupportsMultipart() bool       { return e.inner.SupportsMultipart() }
func (e *encrypted) SupportsRetry() bool           { return e.inner.SupportsRetry() }
func (e *encrypted) SupportsCircuitBreaking() bool { return e.inner.SupportsCircuitBreaking() }
func (e *encrypted) SupportsRateLimiting() bool    { return e.inner.SupportsRateLimiting() }
func (e *encrypted) SupportsBatchOperations() bool { return e.inner.SupportsBatchOperations() }

// SupportsPresignedURLs returns false. So Piko signs URLs of its own, whose handlers use this
// provider.
func (e *encrypted) SupportsPresignedURLs() bool { return false }
