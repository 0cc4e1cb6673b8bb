package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/googleapis/gax-go/v2/apierror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"piko.sh/pikokms/provider"
)

// permissions are what each method of Cloud KMS needs (Cloud KMS documentation, "Permissions and
// roles").
var permissions = map[string]string{
	"Encrypt":      "roles/cloudkms.cryptoKeyEncrypterDecrypter or roles/cloudkms.cryptoKeyEncrypter (cloudkms.cryptoKeyVersions.useToEncrypt)",
	"Decrypt":      "roles/cloudkms.cryptoKeyEncrypterDecrypter or roles/cloudkms.cryptoKeyDecrypter (cloudkms.cryptoKeyVersions.useToDecrypt)",
	"GetCryptoKey": "roles/cloudkms.viewer (cloudkms.cryptoKeys.get)",
}

// fail returns the error of an operation under a key.
func (p *keyring) fail(ctx context.Context, operation, key string, err error) error {
	failure := provider.Failure(operation, providerType, key, err)
	failure.Err = judge(ctx, operation, key, failure.Err)
	if errors.Is(failure.Err, provider.ErrProviderUnavailable) && !strings.Contains(failure.Err.Error(), p.address) {
		failure.Err = fmt.Errorf("%s: %w", p.address, failure.Err) // what answers there may not be Cloud KMS
	}
	return failure
}

// judge adds a sentinel to an error of Cloud KMS that has none yet.
func judge(ctx context.Context, operation, key string, err error) error {
	return provider.Judge(ctx, err, func(err error) error {
		if _, ok := status.FromError(err); !ok {
			return err
		}
		return fmt.Errorf("%w: %w", sentinel(operation, key, err), err)
	})
}

// sentinel returns the sentinel for a gRPC status, with what to do about it.
//
// The circuit breaker of package service counts [provider.ErrProviderUnavailable] as an outage.
// Errors that prove that Cloud KMS is up are listed in its isAnswer.
func sentinel(operation, key string, err error) error {
	if isDamaged(err) {
		return fmt.Errorf("the request: %w", errDamaged)
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Aborted, codes.Unknown, codes.DataLoss:
		return provider.ErrProviderUnavailable
	case codes.Canceled:
		return fmt.Errorf("the connection to Cloud KMS: %w", provider.ErrClosed)
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: the quota of Cloud KMS requests is exhausted; ask for more of it", provider.ErrProviderUnavailable)
	case codes.Unimplemented:
		return fmt.Errorf("%w: this is no answer of Cloud KMS; check the endpoint and proxies on the way", provider.ErrProviderUnavailable)
	case codes.NotFound:
		return fmt.Errorf("%w: there is no key %s; check its project, location and key ring", provider.ErrKeyNotFound, key)
	case codes.PermissionDenied:
		return denied(operation, key, err)
	case codes.Unauthenticated:
		return fmt.Errorf("%w: the credentials are not valid; renew them with gcloud auth application-default login, or check GOOGLE_APPLICATION_CREDENTIALS", provider.ErrAccessDenied)
	case codes.FailedPrecondition:
		return unusable(status.Convert(err).Message())
	}
	switch operation {
	case "Decrypt":
		return provider.ErrDecryptionFailed
	case "Encrypt":
		return provider.ErrEncryptionFailed
	}
	return provider.ErrInvalidKey
}

// denied returns the error for a PERMISSION_DENIED, which has a reason if it is not about the key
// (google.rpc.ErrorInfo, domain googleapis.com).
func denied(operation, key string, err error) error {
	reason := ""
	if api, ok := apierror.FromError(err); ok {
		reason = api.Reason()
	}
	switch reason {
	case "SERVICE_DISABLED":
		return fmt.Errorf("%w: the Cloud KMS API is not enabled in the project; enable cloudkms.googleapis.com", provider.ErrAccessDenied)
	case "BILLING_DISABLED":
		return fmt.Errorf("%w: the project has no billing account", provider.ErrAccessDenied)
	case "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		return fmt.Errorf("%w: the credentials lack the scope https://www.googleapis.com/auth/cloudkms", provider.ErrAccessDenied)
	}
	return fmt.Errorf("%w: %s needs %s on %s, which may also not exist", provider.ErrAccessDenied, operation, permissions[operation], key)
}
