package branchkey

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms/provider"
)

// deniedCodes are the error codes for credentials and permissions (Amazon DynamoDB Developer Guide,
// "Error messages and codes").
var deniedCodes = map[string]bool{
	"AccessDeniedException": true, "ExpiredTokenException": true, "IncompleteSignatureException": true,
	"InvalidSignatureException": true, "MissingAuthenticationTokenException": true, "UnrecognizedClientException": true,
}

// judge adds the error that callers look for to an error of the AWS SDK.
func (d *dynamoTable) judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("table %s: %w", d.table, provider.Judge(ctx, err, func(err error) error {
		return fmt.Errorf("%w: %w", sentinelOf(err), err)
	}))
}

func sentinelOf(err error) error {
	if cancelled, ok := errors.AsType[*types.TransactionCanceledException](err); ok {
		return cancelledBy(cancelled)
	}
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); ok {
		return fmt.Errorf("%w: create it", ErrNoTable)
	}
	var api smithy.APIError
	response, responded := errors.AsType[*smithyhttp.ResponseError](err)
	if !errors.As(err, &api) {
		if _, unsent := errors.AsType[*smithyhttp.RequestSendError](err); unsent || responded {
			return provider.ErrProviderUnavailable // refused, unresolved, timed out, cut off, or garbled
		}
		return fmt.Errorf("%w: no AWS credentials, or a wrong configuration", provider.ErrAccessDenied)
	}
	_, throttled := retry.DefaultThrottleErrorCodes[api.ErrorCode()]
	_, timedOut := retry.DefaultRetryableErrorCodes[api.ErrorCode()]
	switch {
	case throttled || timedOut || responded && response.HTTPStatusCode() >= http.StatusInternalServerError:
		return provider.ErrProviderUnavailable
	case deniedCodes[api.ErrorCode()]:
		return provider.ErrAccessDenied
	case api.ErrorCode() == "TransactionConflictException":
		return ErrConflict
	}
	return provider.ErrInvalidKey
}

// cancelledBy returns the reason for which DynamoDB cancelled a transaction.
func cancelledBy(err *types.TransactionCanceledException) error {
	throttled := false
	for _, reason := range err.CancellationReasons {
		switch aws.ToString(reason.Code) {
		case "ConditionalCheckFailed", "TransactionConflict":
			return ErrConflict
		case "ThrottlingError", "ProvisionedThroughputExceeded":
			throttled = true
		}
	}
	if throttled {
		return provider.ErrProviderUnavailable
	}
	return provider.ErrInvalidKey
}
