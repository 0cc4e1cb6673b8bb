package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// noRetries turns off the retries of Google's client, which last up to a minute and don't cover
// damaged answers.
var noRetries = gax.WithRetry(nil)

// errDamaged means that a request or an answer arrived with other bytes than were sent. The call is
// made again.
var errDamaged = fmt.Errorf("%w: its CRC32C does not fit: it was damaged on the way", provider.ErrProviderUnavailable)

// call makes a call of Cloud KMS, and makes it again at most maxRetries times after errors that may
// pass. The error is one of those that the package documentation lists.
func call[T any](ctx context.Context, p *keyring, operation, key string, ask func(context.Context) (T, error)) (T, error) {
	pause := gax.Backoff{Initial: 100 * time.Millisecond, Max: 5 * time.Second, Multiplier: 2}
	for left := p.maxRetries; ; left-- {
		provider.TraceOf(ctx).Request()
		answer, err := attempt(ctx, p.timeout, ask)
		if err == nil {
			return answer, nil
		}
		provider.TraceOf(ctx).Failed(err)
		if left <= 0 || !isTransient(err) || gax.Sleep(ctx, pause.Pause()) != nil {
			return answer, judge(ctx, operation, key, p.explainPurpose(ctx, operation, key, err))
		}
	}
}

// explainPurpose adds to a FAILED_PRECONDITION that the key is for another purpose, if that is the
// reason. Cloud KMS has the same code for a version that can't be used. So explainPurpose describes
// the key, if that is permitted.
func (p *keyring) explainPurpose(ctx context.Context, operation, key string, err error) error {
	if status.Code(err) != codes.FailedPrecondition || operation == "GetCryptoKey" {
		return err
	}
	described, failed := attempt(ctx, p.timeout, func(ctx context.Context) (*kmspb.CryptoKey, error) {
		return p.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: key}, noRetries)
	})
	if failed != nil {
		return err // this is what is known
	}
	if unfit := checkPurpose(described); unfit != nil {
		return fmt.Errorf("%w: %w", unfit, err)
	}
	return err
}

// attempt makes a call once, and bounds its time.
func attempt[T any](ctx context.Context, timeout time.Duration, ask func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := ask(bounded)
	// gRPC passes the deadline on, and may return a moment before the context ends.
	const moment = 50 * time.Millisecond
	callerEnds, hasDeadline := ctx.Deadline()
	ends, _ := bounded.Deadline()
	switch late := status.Code(err) == codes.DeadlineExceeded && time.Until(ends) < moment; {
	case late && hasDeadline && callerEnds.Equal(ends):
		<-ctx.Done()
	case err != nil && ctx.Err() == nil && (late || bounded.Err() != nil):
		err = status.Errorf(codes.Unavailable, "no answer within %v", timeout)
	}
	return answer, err
}

// isTransient reports whether a call may succeed after it failed with err (Cloud KMS documentation,
// "Retry strategy").
func isTransient(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Aborted, codes.Unknown:
		return true
	}
	return isDamaged(err)
}

// isDamaged reports whether Cloud KMS answered that a checksum of the request does not fit.
func isDamaged(err error) bool {
	return status.Code(err) == codes.InvalidArgument && strings.Contains(status.Convert(err).Message(), "crc32c")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// checksumOf returns the checksum of additional authenticated data, or nil if there are none.
func checksumOf(additional []byte) *wrapperspb.Int64Value {
	if len(additional) == 0 {
		return nil
	}
	return checksum(additional)
}

func fits(sum *wrapperspb.Int64Value, b []byte) bool {
	return sum != nil && sum.Value == checksum(b).Value
}

// encrypt asks Cloud KMS to encrypt under the primary version of a key. The key is trusted from
// then on.
func (p *keyring) encrypt(ctx context.Context, key string, plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrEncryptionFailed, err)
	}
	request := &kmspb.EncryptRequest{
		Name: key, Plaintext: plaintext, PlaintextCrc32C: checksum(plaintext),
		AdditionalAuthenticatedData: additional, AdditionalAuthenticatedDataCrc32C: checksumOf(additional),
	}
	answer, err := call(ctx, p, "Encrypt", key, func(ctx context.Context) (*kmspb.EncryptResponse, error) {
		answer, err := p.client.Encrypt(ctx, request, noRetries)
		switch {
		case err != nil:
			return nil, err
		case !answer.VerifiedPlaintextCrc32C || len(additional) > 0 && !answer.VerifiedAdditionalAuthenticatedDataCrc32C:
			return nil, fmt.Errorf("the request: %w", errDamaged)
		case !fits(answer.CiphertextCrc32C, answer.Ciphertext):
			return nil, fmt.Errorf("the answer: %w", errDamaged)
		}
		return answer, nil
	})
	if err != nil {
		return nil, err
	}
	if got := answer.Name; !strings.HasPrefix(got, key+"/") || withoutVersion(got) != key {
		return nil, fmt.Errorf("%w: Cloud KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, key, got)
	}
	if n := len(answer.Ciphertext); n == 0 || n > math.MaxUint16 {
		return nil, fmt.Errorf("%w: Cloud KMS answered with a ciphertext of %d bytes", provider.ErrEncryptionFailed, n)
	}
	p.keys.trust(key)
	return answer.Ciphertext, nil
}

// decrypt asks Cloud KMS to decrypt under a key. The caller clears the answer's plaintext.
func (p *keyring) decrypt(ctx context.Context, key string, ciphertext []byte, encryptionContext map[string]string) (*kmspb.DecryptResponse, error) {
	additional, err := header.AppendContext(nil, encryptionContext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", provider.ErrDecryptionFailed, err)
	}
	request := &kmspb.DecryptRequest{
		Name: key, Ciphertext: ciphertext, CiphertextCrc32C: checksum(ciphertext),
		AdditionalAuthenticatedData: additional, AdditionalAuthenticatedDataCrc32C: checksumOf(additional),
	}
	return call(ctx, p, "Decrypt", key, func(ctx context.Context) (*kmspb.DecryptResponse, error) {
		answer, err := p.client.Decrypt(ctx, request, noRetries)
		if err != nil {
			return nil, err
		}
		if !fits(answer.PlaintextCrc32C, answer.Plaintext) {
			clear(answer.Plaintext)
			return nil, fmt.Errorf("the answer: %w", errDamaged)
		}
		return answer, nil
	})
}
