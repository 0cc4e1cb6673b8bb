package awskms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"piko.sh/pikokms/provider"
)

// codes are the sentinels of error codes (KMS API Reference, "Common Errors" and each operation's own).
var codes = map[string]error{
	"NotFoundException":           provider.ErrKeyNotFound,
	"InvalidArnException":         provider.ErrInvalidKey,
	"DisabledException":           provider.ErrKeyDisabled,
	"InvalidKeyUsageException":    provider.ErrKeyUsage,
	"InvalidCiphertextException":  provider.ErrDecryptionFailed,
	"IncorrectKeyException":       provider.ErrDecryptionFailed,
	"AccessDenied":                provider.ErrAccessDenied,
	"AccessDeniedException":       provider.ErrAccessDenied,
	"NotAuthorized":               provider.ErrAccessDenied,
	"OptInRequired":               provider.ErrAccessDenied,
	"ExpiredTokenException":       provider.ErrAccessDenied,
	"IncompleteSignature":         provider.ErrAccessDenied,
	"InvalidClientTokenId":        provider.ErrAccessDenied,
	"InvalidSignatureException":   provider.ErrAccessDenied,
	"MissingAuthenticationToken":  provider.ErrAccessDenied,
	"UnrecognizedClientException": provider.ErrAccessDenied,
	"DependencyTimeoutException":  provider.ErrProviderUnavailable,
	"KeyUnavailableException":     provider.ErrProviderUnavailable,
	"KMSInternalException":        provider.ErrProviderUnavailable,
	"LimitExceededException":      provider.ErrProviderUnavailable,
	"RequestExpired":              provider.ErrProviderUnavailable,
	"ServiceUnavailable":          provider.ErrProviderUnavailable,
	"Throttling":                  provider.ErrProviderUnavailable,
	"ThrottlingException":         provider.ErrProviderUnavailable,
	"TooManyRequestsException":    provider.ErrProviderUnavailable,
}

// fail says which operation failed under which key, and puts a sentinel before an error of the AWS SDK that has none yet.
func (p *Provider) fail(ctx context.Context, operation string, err error) error {
	return fail(ctx, operation, cmp.Or(p.arn, p.keyID), err)
}

func fail(ctx context.Context, operation, key string, err error) error {
	if inner, ok := errors.AsType[*provider.EncryptionError](err); ok {
		err = inner.Err // one frame says it: the operation that the caller asked for
	}
	if s := sentinel(ctx, err); s != nil {
		err = fmt.Errorf("%w: %w", s, err)
	}
	return &provider.EncryptionError{Operation: operation, Provider: string(provider.TypeAWSKMS), KeyID: key, Err: err}
}

// sentinel judges an error of the AWS SDK. It returns nil for every other error and for a caller's own cancellation.
func sentinel(ctx context.Context, err error) error {
	operation, ok := errors.AsType[*smithy.OperationError](err)
	if !ok || ctx.Err() != nil {
		return nil
	}
	api, ok := errors.AsType[smithy.APIError](operation)
	if !ok {
		// No answer of the service: refused, unresolved, timed out, or cut off.
		return provider.ErrProviderUnavailable
	}
	if s := codes[api.ErrorCode()]; s != nil {
		return s
	}
	if api.ErrorCode() == "KMSInvalidStateException" {
		if strings.Contains(strings.ToLower(api.ErrorMessage()), "pending deletion") {
			return provider.ErrKeyPendingDeletion
		}
		return provider.ErrKeyDisabled
	}
	if response, ok := errors.AsType[*smithyhttp.ResponseError](operation); ok && response.HTTPStatusCode() >= http.StatusInternalServerError {
		return provider.ErrProviderUnavailable
	}
	switch operation.Operation() {
	case "Decrypt", "ReEncrypt":
		return provider.ErrDecryptionFailed
	case "DescribeKey":
		return provider.ErrInvalidKey
	}
	return provider.ErrEncryptionFailed
}

// noCredentials is fail for an error of the credential chain.
func noCredentials(ctx context.Context, keyID string, err error) error {
	if ctx.Err() == nil {
		err = fmt.Errorf("%w: no AWS credentials; set them in the environment, a profile or a role: %w", provider.ErrAccessDenied, err)
	}
	return &provider.EncryptionError{Operation: "NewProvider", Provider: string(provider.TypeAWSKMS), KeyID: keyID, Err: err}
}
