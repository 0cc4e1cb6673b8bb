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

	closing sync.Once
	closed  error
}

var _ storage.ProviderPort = (*encrypted)(nil)

// Unwrap returns the inner provider, which Piko asks for its health and capabilities.
func (e *encrypted) Unwrap() storage.ProviderPort { return e.inner }

// The optional ports that Piko looks for beside storage.ProviderPort.
type (
	lister interface {
		ListKeys(ctx context.Context, repository string) ([]string, error)
	}
	described interface {
		GetProviderType() string
		GetProviderMetadata() map[string]any
	}
)

// description adapts the inner provider's description of itself to encryption.
type description struct {
	described
	keys string
}

func (d description) GetProviderMetadata() map[string]any {
	metadata := maps.Clone(d.described.GetProviderMetadata())
	if metadata == nil {
		metadata = make(map[string]any)
	}
	metadata["encryption"] = d.keys
	if _, told := metadata["supports_presigned"]; told {
		metadata["supports_presigned"] = false
	}
	return metadata
}

// withOptionalPorts returns e with those optional ports that the inner provider has.
func withOptionalPorts(e *encrypted) storage.ProviderPort {
	keys, listed := e.inner.(lister)
	inner, told := e.inner.(described)
	d := description{inner, string(e.host.CryptoService().Type())}
	switch {
	case listed && told:
		return struct {
			*encrypted
			lister
			description
		}{e, keys, d}
	case listed:
		return struct {
			*encrypted
			lister
		}{e, keys}
	case told:
		return struct {
			*encrypted
			description
		}{e, d}
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
