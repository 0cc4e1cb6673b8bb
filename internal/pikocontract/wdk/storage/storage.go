// Package storage stands in for Piko's package of that path: it declares the signatures that a
// storage provider compiles against. A Piko application has Piko's own in its place.
package storage

import (
	"context"
	"io"
	"time"
)

// The names that Piko gives to providers and repositories.
const (
	StorageNameDefault       = "default"
	StorageNameSystem        = "system"
	StorageRepositoryDefault = "default"
)

// TransformerType names a kind of stream transformer.
type TransformerType string

// The kinds of stream transformers.
const (
	TransformerCompression TransformerType = "compression"
	TransformerEncryption  TransformerType = "encryption"
	TransformerCustom      TransformerType = "custom"
)

// StreamTransformerPort is Piko's port of stream transformers.
type StreamTransformerPort interface {
	Name() string
	Type() TransformerType
	Priority() int
	Transform(ctx context.Context, input io.Reader, options any) (io.Reader, error)
	Reverse(ctx context.Context, input io.Reader, options any) (io.Reader, error)
}

// ProviderPort is Piko's port of storage providers.
type ProviderPort interface {
	Put(ctx context.Context, params *PutParams) error
	Get(ctx context.Context, params GetParams) (io.ReadCloser, error)
	Stat(ctx context.Context, params GetParams) (*ObjectInfo, error)
	Copy(ctx context.Context, srcRepo string, srcKey, dstKey string) error
	CopyToAnotherRepository(ctx context.Context, srcRepo string, srcKey string, dstRepo string, dstKey string) error
	Remove(ctx context.Context, params GetParams) error
	Rename(ctx context.Context, repo string, oldKey, newKey string) error
	Exists(ctx context.Context, params GetParams) (bool, error)
	GetHash(ctx context.Context, params GetParams) (string, error)
	PresignURL(ctx context.Context, params PresignParams) (string, error)
	PresignDownloadURL(ctx context.Context, params PresignDownloadParams) (string, error)
	Close(ctx context.Context) error
	SupportsMultipart() bool
	SupportsRetry() bool
	SupportsCircuitBreaking() bool
	SupportsRateLimiting() bool
	PutMany(ctx context.Context, params *PutManyParams) (*BatchResult, error)
	RemoveMany(ctx context.Context, params RemoveManyParams) (*BatchResult, error)
	SupportsBatchOperations() bool
	SupportsPresignedURLs() bool
}

// The parameters and results of a provider.
type (
	PutParams struct {
		Reader               io.Reader
		MultipartConfig      *MultipartUploadConfig
		TransformConfig      *TransformConfig
		Metadata             map[string]string
		Key                  string
		ContentType          string
		HashAlgorithm        string
		ExpectedHash         string
		Repository           string
		Size                 int64
		UseContentAddressing bool
	}
	TransformConfig struct {
		TransformerOptions  map[string]any
		EnabledTransformers []string
	}
	MultipartUploadConfig struct {
		PartSize       int64
		Concurrency    int
		EnableChecksum bool
		MaxRetries     int
	}
	ByteRange struct {
		Start int64
		End   int64
	}
	GetParams struct {
		ByteRange       *ByteRange
		TransformConfig *TransformConfig
		Key             string
		Repository      string
	}
	CopyParams struct {
		SourceKey             string
		DestinationKey        string
		SourceRepository      string
		DestinationRepository string
	}
	PutManyParams struct {
		TransformConfig *TransformConfig
		Repository      string
		Objects         []PutObjectSpec
		Concurrency     int
		ContinueOnError bool
	}
	PutObjectSpec struct {
		Reader      io.Reader
		Key         string
		ContentType string
		Size        int64
	}
	RemoveManyParams struct {
		Repository      string
		Keys            []string
		Concurrency     int
		ContinueOnError bool
	}
	PresignParams struct {
		Key         string
		ContentType string
		Repository  string
		ExpiresIn   time.Duration
	}
	PresignDownloadParams struct {
		Key         string
		Repository  string
		FileName    string
		ContentType string
		ExpiresIn   time.Duration
	}
	MigrateParams struct {
		SourceProvider           string
		DestinationProvider      string
		Repository               string
		Keys                     []string
		Concurrency              int
		RemoveSourceAfterSuccess bool
		ContinueOnError          bool
	}
	ObjectInfo struct {
		LastModified time.Time
		Metadata     map[string]string
		ContentType  string
		ETag         string
		Size         int64
	}
	BatchResult struct {
		SuccessfulKeys  []string
		FailedKeys      []BatchFailure
		TotalRequested  int
		TotalSuccessful int
		TotalFailed     int
		ProcessingTime  time.Duration
	}
	BatchFailure struct {
		Key       string
		Error     string
		ErrorCode string
		Retryable bool
	}
)

// HasErrors reports whether an object of the batch failed.
func (r *BatchResult) HasErrors() bool { return r.TotalFailed > 0 }

// IsPartialSuccess reports whether some objects of the batch failed and some did not.
func (r *BatchResult) IsPartialSuccess() bool { return r.TotalFailed > 0 && r.TotalSuccessful > 0 }

// ProviderOption configures a provider.
type ProviderOption func(*ProviderOptions)

// ProviderOptions is what a ProviderOption sets.
type ProviderOptions struct{ RateLimitConfig ProviderRateLimitConfig }

// ProviderRateLimitConfig limits a provider's calls.
type ProviderRateLimitConfig struct {
	CallsPerSecond float64
	Burst          int
}

// DefaultMultipartConfig returns the part size and the concurrency of Piko's uploads.
func DefaultMultipartConfig() MultipartUploadConfig {
	return MultipartUploadConfig{PartSize: 100 << 20, Concurrency: 5, EnableChecksum: true, MaxRetries: 3}
}

// IsRetryableError reports whether Piko tries an operation again after err.
func IsRetryableError(err error) bool { return retryable(err) }
