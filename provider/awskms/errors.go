package awskms

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms/internal/kmsclient"
	"piko.sh/pikokms/provider"
)

// codes maps KMS's error codes to the errors that callers see (KMS API Reference, "Common Errors"
// and each operation's own). The codes of throttling and of timeouts are those of the AWS SDK; see
// sentinel.
//
// The circuit breaker of package service counts [provider.ErrProviderUnavailable] as an outage.
// Errors that prove that KMS is up are listed in its isAnswer.
var codes = map[string]error{
	"NotFoundException":                   provider.ErrKeyNotFound,
	"InvalidArnException":                 provider.ErrInvalidKey,
	"DisabledException":                   provider.ErrKeyDisabled,
	"InvalidKeyUsageException":            provider.ErrKeyUsage,
	"UnsupportedOperationException":       provider.ErrKeyUsage,
	"InvalidCiphertextException":          provider.ErrDecryptionFailed,
	"IncorrectKeyException":               provider.ErrDecryptionFailed,
	"AccessDenied":                        provider.ErrAccessDenied,
	"AccessDeniedException":               provider.ErrAccessDenied,
	"NotAuthorized":                       provider.ErrAccessDenied,
	"OptInRequired":                       provider.ErrAccessDenied,
	"SubscriptionRequiredException":       provider.ErrAccessDenied,
	"ExpiredToken":                        provider.ErrAccessDenied,
	"ExpiredTokenException":               provider.ErrAccessDenied,
	"IncompleteSignature":                 provider.ErrAccessDenied,
	"IncompleteSignatureException":        provider.ErrAccessDenied,
	"InvalidClientTokenId":                provider.ErrAccessDenied,
	"InvalidGrantIdException":             provider.ErrAccessDenied,
	"InvalidGrantTokenException":          provider.ErrAccessDenied,
	"InvalidSignatureException":           provider.ErrAccessDenied,
	"SignatureDoesNotMatch":               provider.ErrAccessDenied,
	"MissingAuthenticationToken":          provider.ErrAccessDenied,
	"MissingAuthenticationTokenException": provider.ErrAccessDenied,
	"RequestExpired":                      provider.ErrAccessDenied,
	"RequestTimeTooSkewed":                provider.ErrAccessDenied,
	"UnrecognizedClientException":         provider.ErrAccessDenied,
	"DependencyTimeoutException":          provider.ErrProviderUnavailable,
	"KeyUnavailableException":             provider.ErrProviderUnavailable,
	"KMSInternalException":                provider.ErrProviderUnavailable,
	"ServiceUnavailable":                  provider.ErrProviderUnavailable,
	"InternalFailure":                     provider.ErrProviderUnavailable,
	"UnknownOperationException":           errNoKMS,
	"UnknownError":                        errNoKMS, // what the AWS SDK makes of an answer without a code
	"":                                    errNoKMS,
}

// errNoKMS is the error for an answer in KMS's form that KMS does not give.
var errNoKMS = fmt.Errorf("%w: this is no answer of KMS; check the endpoint's URL and proxies on the way", provider.ErrProviderUnavailable)

// fail returns the error of an operation under the provider's own key.
func (p *keyring) fail(ctx context.Context, operation string, err error) error {
	return fail(ctx, operation, p.KeyID(), err)
}

// fail returns the error of an operation under a key.
func fail(ctx context.Context, operation, key string, err error) error {
	failure := provider.Failure(operation, providerType, key, err)
	failure.Err = Judge(ctx, failure.Err)
	return failure
}

// Judge wraps an error of a client of NewClient with the error of package provider that describes
// it, unless it holds one already.
func Judge(ctx context.Context, err error) error {
	return provider.Judge(ctx, err, func(err error) error {
		operation, ok := errors.AsType[*smithy.OperationError](err)
		if !ok {
			return err
		}
		if missing, ok := errors.AsType[*kmsclient.CredentialsError](operation); ok {
			return judgeCredentials(missing, err)
		}
		return fmt.Errorf("%w: %w", sentinel(operation), err)
	})
}

// sentinel returns the sentinel for an error of the AWS SDK.
func sentinel(operation *smithy.OperationError) error {
	api, isAnswer := errors.AsType[smithy.APIError](operation)
	response, responded := errors.AsType[*smithyhttp.ResponseError](operation)
	_, unsent := errors.AsType[*smithyhttp.RequestSendError](operation)
	switch {
	case !isAnswer && (responded || unsent):
		return provider.ErrProviderUnavailable // refused, unresolved, timed out, cut off, or garbled
	case !isAnswer:
		return provider.ErrInvalidKey // the configuration is wrong, so no request was made
	}
	code := api.ErrorCode()
	if code == "KMSInvalidStateException" {
		return invalidState(api.ErrorMessage())
	}
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	_, timedOut := retry.DefaultRetryableErrorCodes[code]
	known := codes[code]
	failed := responded && response.HTTPStatusCode() >= http.StatusInternalServerError
	switch {
	case throttled || timedOut, failed && (known == nil || known == errNoKMS):
		return provider.ErrProviderUnavailable
	case known != nil:
		return known
	}
	switch operation.Operation() {
	case "Decrypt", "ReEncrypt":
		return provider.ErrDecryptionFailed
	case "DescribeKey":
		return provider.ErrInvalidKey
	}
	return provider.ErrEncryptionFailed
}

// isDenied reports whether KMS answered that valid credentials do not permit a call.
func isDenied(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "AccessDeniedException" || api.ErrorCode() == "AccessDenied")
}

// judgeCredentials returns the error for missing credentials, or for an outage of their source.
// Most machines have no EC2 instance metadata. So if that service does not answer, credentials are
// taken to be missing.
func judgeCredentials(missing *kmsclient.CredentialsError, err error) error {
	if service, ok := errors.AsType[*smithy.OperationError](missing.Cause); missing.Late || ok && service.Service() != "ec2imds" && sentinel(service) == provider.ErrProviderUnavailable {
		return fmt.Errorf("%w: the source of the AWS credentials does not give them now: %w", provider.ErrProviderUnavailable, err)
	}
	return fmt.Errorf("%w: no AWS credentials; set them in the environment, a profile or a role: %w", provider.ErrAccessDenied, err)
}
