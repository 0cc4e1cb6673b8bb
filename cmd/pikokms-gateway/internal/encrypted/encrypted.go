// Package encrypted is a backend of an S3 gateway around another backend. What clients put is
// stored there as objects of a pikokms.Host, one message each, and what clients get was verified.
//
// A method of the interface that this package does not have is refused with NotImplemented, so that
// nothing passes a later version of the gateway unencrypted.
package encrypted

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"syscall"

	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"piko.sh/pikokms"
	"piko.sh/pikokms/header"
	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/service"
)

// Config configures a Backend.
type Config struct {
	// Keys returns what encrypts and decrypts the object key of a bucket. An error refuses the
	// request.
	Keys func(bucket, key string) (*Key, error)

	Logger *slog.Logger // for errors that clients see as internal ones; nil means none
}

// Backend is a backend that encrypts. What it keeps in memory can be lost, so several Backends can
// work on one inner backend.
type Backend struct {
	backend.BackendUnsupported
	inner    backend.Backend
	isFolder bool // inner is a folder of the file system
	config   Config

	records    recentCache[knownRecord]
	known      recentCache[description]
	describing *semaphore.Weighted // requests of listings
	buffered   *semaphore.Weighted // bytes of content that is held in memory
	completing singleflight.Group
	joining    *semaphore.Weighted // bytes of parts of large objects
}

// New returns a Backend around inner.
func New(inner backend.Backend, c Config) *Backend {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	_, isFolder := inner.(*posix.Posix)
	return &Backend{
		inner: inner, isFolder: isFolder, config: c, buffered: semaphore.NewWeighted(maxAllBuffered),
		joining: semaphore.NewWeighted(maxJoining), describing: semaphore.NewWeighted(allListingRequests),
		records: recentCache[knownRecord]{most: maxRecords}, known: recentCache[description]{most: maxDescribed},
	}
}

// FolderOptions are the options of a folder behind a Backend, which keeps metadata in extended
// attributes. The folder derives an ETag from the checksum of what is stored. A Backend asks for
// XXH3 of 128 bits, which takes a tenth of the time of MD5.
func FolderOptions() posix.PosixOpts {
	return posix.PosixOpts{NewDirPerm: 0o700, NewFilePerm: 0o600, DataIntegrityEtag: true}
}

func (b *Backend) String() string { return "encrypted " + b.inner.String() }

// Shutdown shuts the inner backend down.
func (b *Backend) Shutdown() { b.inner.Shutdown() }

// NormalizeObjectKey returns the same name for all keys that name the same object.
func (b *Backend) NormalizeObjectKey(bucket, object string) string {
	return b.inner.NormalizeObjectKey(bucket, object)
}

// hiddenPrefix is the prefix of what the gateway itself stores in a bucket. No client reaches it.
const hiddenPrefix = ".pikokms/"

// checkKey refuses a key that is the gateway's own, or that leads out of its bucket. The engine
// checks only keys in URLs, so a list of objects to delete may have any.
func checkKey(key *string) error {
	if key == nil {
		return s3err.GetAPIError(s3err.ErrNoSuchKey)
	}
	inBucket := path.Join(".", *key) // as a folder behind reads it
	switch {
	case inBucket == "." || inBucket == ".." || strings.HasPrefix(inBucket, "../"):
		return errOutside
	case strings.HasPrefix(inBucket+"/", hiddenPrefix):
		return s3err.GetAPIError(s3err.ErrAccessDenied)
	}
	return nil
}

// checkServed refuses the keys that checkKey refuses, and those of a place without a KEY.
func (b *Backend) checkServed(bucket string, key *string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, _, err := b.key(bucket, *key)
	return err
}

// key returns the Key of an object, and the name by which the Key knows the object.
//
// The strings of a request lie in memory that the engine uses again for the next request, so those
// that may outlive it are cloned.
func (b *Backend) key(bucket, key string) (*Key, string, error) {
	name := strings.Clone(b.inner.NormalizeObjectKey(bucket, key))
	place := name
	if isFolder(&key) && !isFolder(&place) { // a folder behind takes the slash away
		place += "/"
	}
	k, err := b.config.Keys(strings.Clone(bucket), place)
	if err == nil && k == nil {
		err = errNoKey
	}
	return k, name, err
}

// clientErrors has the errors that clients see in place of others.
var clientErrors = []struct {
	is  error
	api s3err.APIError
}{
	{service.ErrBreakerOpen, errUnavailable},
	{provider.ErrProviderUnavailable, errUnavailable},
	{branchkey.ErrDestroyed, s3err.APIError{Code: "KMS.KMSInvalidStateException", Description: "The branch key was destroyed.", HTTPStatusCode: http.StatusBadRequest}},
	{provider.ErrKeyDisabled, s3err.APIError{Code: "KMS.DisabledException", Description: "The key is disabled.", HTTPStatusCode: http.StatusBadRequest}},
	{provider.ErrKeyPendingDeletion, s3err.APIError{Code: "KMS.KMSInvalidStateException", Description: "The key is pending deletion.", HTTPStatusCode: http.StatusBadRequest}},
	{provider.ErrKeyNotFound, s3err.APIError{Code: "KMS.NotFoundException", Description: "There is no such key.", HTTPStatusCode: http.StatusBadRequest}},
	{provider.ErrUntrustedKey, s3err.APIError{Code: "AccessDenied", Description: "The object is encrypted under a key that the gateway is not configured for.", HTTPStatusCode: http.StatusForbidden}},
	{provider.ErrAccessDenied, s3err.APIError{Code: "AccessDenied", Description: "The key service does not let the gateway use the key.", HTTPStatusCode: http.StatusForbidden}},
	{pikokms.ErrNotSeekable, s3err.APIError{Code: "NotImplemented", Description: "The object can only be read as a whole, since it was compressed or signed by another program.", HTTPStatusCode: http.StatusNotImplemented}},
	{pikokms.ErrPlaintext, errInvalid},
	{pikokms.ErrNotObject, s3err.APIError{Code: "InvalidObjectState", Description: "The stored message is no object of pikokms: another program wrote it. Decrypt it with that, and put it anew.", HTTPStatusCode: http.StatusForbidden}},
	{provider.ErrContextMismatch, s3err.APIError{Code: "InvalidObjectState", Description: "The encryption context of the stored object is not that of its place: it belongs to another name or place, or another program stored it without the pairs of its place.", HTTPStatusCode: http.StatusForbidden}},
	{provider.ErrDecryptionFailed, errInvalid},
	{provider.ErrInvalidCiphertext, errInvalid},
	{header.ErrInvalidContext, s3err.APIError{Code: "InvalidArgument", Description: "The encryption context can't have this name.", HTTPStatusCode: http.StatusBadRequest}},
	{pikokms.ErrChanged, s3err.APIError{Code: "OperationAborted", Description: "The object was replaced while it was read.", HTTPStatusCode: http.StatusConflict}},
	{syscall.ENAMETOOLONG, s3err.GetAPIError(s3err.ErrKeyTooLong)}, // of a folder
	{message.ErrTooLong, s3err.APIError{Code: "EntityTooLarge", Description: "The object is longer than one message can be.", HTTPStatusCode: http.StatusBadRequest}},
}

var (
	errUnavailable = s3err.APIError{Code: "ServiceUnavailable", Description: "The key service can't be reached. Please try again.", HTTPStatusCode: http.StatusServiceUnavailable}
	errNoKey       = s3err.APIError{Code: "AccessDenied", Description: "The gateway has no key for this place.", HTTPStatusCode: http.StatusForbidden}
	errOutside     = s3err.APIError{Code: "InvalidArgument", Description: "The key leads out of its bucket.", HTTPStatusCode: http.StatusBadRequest}
	errInvalid     = s3err.APIError{Code: "InvalidObjectState", Description: "The stored object is not what the gateway wrote there: it is not encrypted, or was changed.", HTTPStatusCode: http.StatusForbidden}
)

// fail turns an error into S3's own, if there is one.
func (b *Backend) fail(ctx context.Context, doing, bucket, key string, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[s3err.S3Error](err); ok {
		return own
	}
	b.config.Logger.ErrorContext(ctx, doing, "bucket", bucket, "key", key, "error", err)
	for _, f := range clientErrors {
		if errors.Is(err, f.is) {
			return f.api
		}
	}
	return err
}
