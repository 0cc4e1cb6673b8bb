package places

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/aws/aws-sdk-go-v2/aws"
	awsretry "github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	"github.com/cenkalti/backoff/v6"
	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"

	"piko.sh/pikokms/cmd/pikokms/internal/idle"
	"piko.sh/pikokms/provider"
)

// Tries is how often an object is tried, and FirstWait is the time before the second try. Tests set
// both.
var (
	Tries     uint = 5
	FirstWait      = 500 * time.Millisecond
)

// The times between tries double and vary by half.
const (
	longestWait  = 20 * time.Second
	growth       = 2
	waitVariance = 0.5
)

// newWaits returns the times between tries.
func newWaits() *backoff.ExponentialBackOff {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier, waits.RandomizationFactor = FirstWait, longestWait, growth, waitVariance
	return waits
}

// Retry calls try until it succeeds, until it returns false because a further call would fail, too,
// or Tries times.
func Retry[T any](ctx context.Context, try func() (T, bool, error)) (T, error) {
	value, err := backoff.Retry(ctx, func() (T, error) {
		value, more, err := try()
		if err != nil && !more {
			err = backoff.Permanent(err)
		}
		return value, err
	}, backoff.WithBackOff(newWaits()), backoff.WithMaxTries(Tries), backoff.WithMaxElapsedTime(0))
	if failed := backoff.AsRetryError(err); failed != nil {
		switch failed.Cause {
		case backoff.ErrPermanent, backoff.ErrExhausted:
			err = failed.LastErr
		default: // the context's
			err = failed.Cause
		}
	}
	return value, err
}

// storageError is an error that a storage returned, rather than one about the content of an object.
// A read of an object that was cut short before it was stored does not return one.
type storageError struct {
	error
	download bool // the content of an object of a bucket was being read
}

// Unwrap returns the cause.
func (e storageError) Unwrap() error { return e.error }

// OfStorage marks an error that a storage returned.
func OfStorage(err error) error {
	if err == nil || err == io.EOF || IsOfStorage(err) {
		return err
	}
	return storageError{error: err}
}

// OfUpload marks an error of a Put if it comes from the storage. An error of the content, which is
// read meanwhile, stays as it is: it holds no error of a storage's client.
func OfUpload(err error) error {
	_, ofAWS := errors.AsType[*smithy.OperationError](err)
	_, ofNet := errors.AsType[net.Error](err)
	if ofAWS || ofNet || errors.Is(err, idle.ErrIdle) {
		return OfStorage(err)
	}
	return err
}

func IsOfStorage(err error) bool {
	_, ok := errors.AsType[storageError](err)
	return ok
}

// IsTransient reports whether an error may not occur again: throttling and faults of a key service
// or of a storage, and connections to them that break.
func IsTransient(err error) bool {
	if errors.Is(err, provider.ErrProviderUnavailable) {
		return true
	}
	failed, ok := errors.AsType[storageError](err)
	return ok && failed.isTransient()
}

// isTransient reports whether an error of a storage may not occur again.
func (e storageError) isTransient() bool {
	err := e.error
	if errors.Is(err, idle.ErrIdle) {
		return true
	}
	switch gcerrors.Code(err) {
	case gcerrors.ResourceExhausted, gcerrors.Internal, gcerrors.DeadlineExceeded:
		return true
	case gcerrors.NotFound, gcerrors.FailedPrecondition, gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Canceled:
		return false
	}
	if status := statusIn(err); status >= http.StatusBadRequest && !isThrottled(err) {
		return status >= http.StatusInternalServerError && status != http.StatusNotImplemented ||
			status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	}
	if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok && syntax.Msg == "unexpected EOF" {
		return true // an answer without a size was cut
	}
	return e.download || errors.Is(err, io.ErrUnexpectedEOF) || storage.ShouldRetry(err) ||
		awsretry.IsErrorRetryables(awsretry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}

// isThrottled reports whether an error of S3 is transient, whatever its status.
func isThrottled(err error) bool {
	answer, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	_, throttled := awsretry.DefaultThrottleErrorCodes[answer.ErrorCode()]
	_, timedOut := awsretry.DefaultRetryableErrorCodes[answer.ErrorCode()]
	return throttled || timedOut
}

// statusIn returns the HTTP status with which a storage refused a request, or 0.
func statusIn(err error) int {
	if answer, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return answer.StatusCode
	}
	if answer, ok := errors.AsType[*googleapi.Error](err); ok {
		return answer.Code
	}
	if answer, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok {
		return answer.HTTPStatusCode()
	}
	return 0
}

// refusal is what a denied request means for the other objects.
type refusal int

const (
	NotRefused         refusal = iota
	refusedPermission          // which may be missing for this object alone
	RefusedCredentials         // which no object can be read with
)

// credentialCodes are the codes of AWS for credentials that are refused, whatever is asked for
// (Amazon S3 API Reference, "Error responses"; AWS KMS API Reference, "Common Errors").
var credentialCodes = []string{
	"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId", "InvalidClientTokenId",
	"UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed",
	"MissingAuthenticationToken", "MissingAuthenticationTokenException", "IncompleteSignature", "IncompleteSignatureException",
	"NotSignedUp", "AccountProblem",
}

// RefusalOf returns what an error of a key service or a storage means for the other objects.
func RefusalOf(err error) refusal {
	ofKey := errors.Is(err, provider.ErrAccessDenied)
	if !ofKey && !IsOfStorage(err) {
		return NotRefused
	}
	status := statusIn(err)
	if answer, ok := errors.AsType[smithy.APIError](err); ok && slices.Contains(credentialCodes, answer.ErrorCode()) || status == http.StatusUnauthorized {
		return RefusedCredentials
	}
	// S3's answers to HEAD have no code. Status 400 is that of credentials that have expired.
	if ofKey || status == http.StatusForbidden || status == http.StatusBadRequest || gcerrors.Code(err) == gcerrors.PermissionDenied {
		return refusedPermission
	}
	return NotRefused
}
