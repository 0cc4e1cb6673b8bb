package command

import (
	"context"
	"errors"
	"net/http"
	"time"

	"cloud.google.com/go/storage"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/aws/aws-sdk-go-v2/aws"
	awsretry "github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/cenkalti/backoff/v5"
	"gocloud.dev/gcerrors"

	"piko.sh/pikokms/provider"
)

// The tries of an object, and the time before the second one. Tests have others.
var (
	tries     uint = 5
	firstWait      = 500 * time.Millisecond
)

// The times between tries double and vary by half.
const (
	longestWait  = 20 * time.Second
	growth       = 2
	waitVariance = 0.5
)

// retry works on an object, up to five times if what fails may pass, unless no more is to be begun.
func retry(ctx context.Context, i item, stop *stopping, work func(context.Context, item) (int64, error)) (int64, error) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier, waits.RandomizationFactor = firstWait, longestWait, growth, waitVariance
	begun := time.Now()
	n, err := backoff.Retry(ctx, func() (int64, error) {
		n, err := work(ctx, i)
		if err != nil && (i.place.isStandardInput() || stop.isAsked() || !passes(err)) {
			err = backoff.Permanent(err)
		}
		if i.since.IsZero() {
			i.since = begun
		}
		return n, err
	}, backoff.WithBackOff(waits), backoff.WithMaxTries(tries), backoff.WithMaxElapsedTime(0))
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		err = permanent.Unwrap()
	}
	return n, err
}

// lost is the error of an object's content that a service did not send to its end.
type lost struct{ error }

// Unwrap returns the cause.
func (l lost) Unwrap() error { return l.error }

// enough is how many objects in a row may fail in all their tries before no more are begun: what
// all of them need is then away for longer.
const enough = 20

// passes tells whether an error is of a kind that may pass: throttling, faults of a service, and
// connections that break.
func passes(err error) bool {
	if _, ok := errors.AsType[lost](err); ok || errors.Is(err, provider.ErrProviderUnavailable) {
		return true
	}
	switch gcerrors.Code(err) {
	case gcerrors.ResourceExhausted, gcerrors.Internal, gcerrors.DeadlineExceeded:
		return true
	case gcerrors.NotFound, gcerrors.FailedPrecondition, gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Canceled:
		return false
	}
	if response, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests
	}
	return storage.ShouldRetry(err) || awsretry.IsErrorRetryables(awsretry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}
