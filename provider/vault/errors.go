package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"piko.sh/pikokms/provider"
)

// fail returns the error of an operation.
func (p *keyring) fail(ctx context.Context, operation string, err error) error {
	failure := provider.Failure(operation, p.Type(), p.id, err)
	if p.session.ended() && !errors.Is(failure.Err, provider.ErrClosed) {
		failure.Err = fmt.Errorf("the provider: %w: %w", provider.ErrClosed, failure.Err)
	}
	failure.Err = judge(ctx, failure.Err)
	if at := p.session.client.Address(); errors.Is(failure.Err, provider.ErrProviderUnavailable) && !strings.Contains(failure.Err.Error(), at) {
		failure.Err = fmt.Errorf("%s: %w", at, failure.Err) // what answers there may not be the server
	}
	return failure
}

// answerError is an error that the server answered, in one line.
type answerError struct{ *api.ResponseError }

func (e *answerError) Error() string {
	text := strings.Join(strings.Fields(strings.Join(e.Errors, "; ")), " ")
	if e.RawError || text == "" {
		text = http.StatusText(e.StatusCode)
	}
	return fmt.Sprintf("HTTP %d: %s", e.StatusCode, text)
}

func (e *answerError) Unwrap() error { return e.ResponseError }

// asAnswer returns an error of HashiCorp's client with a text of one line.
func asAnswer(err error) error {
	if answered, ok := errors.AsType[*api.ResponseError](err); ok {
		return &answerError{answered}
	}
	return err
}

func isStatus(err error, status int) bool {
	answered, ok := errors.AsType[*api.ResponseError](err)
	return ok && answered.StatusCode == status
}

// judge adds a sentinel to an error of reaching the server, unless it has one.
func judge(ctx context.Context, err error) error {
	return provider.Judge(ctx, err, func(err error) error {
		if answered, ok := errors.AsType[*api.ResponseError](err); ok {
			return fmt.Errorf("%w: %w", outage(answered), asAnswer(err))
		}
		_, unsent := errors.AsType[*url.Error](err)
		_, broken := errors.AsType[net.Error](err)
		_, cut := errors.AsType[*cutError](err)
		if unsent || broken || cut {
			return &transportError{err}
		}
		return err
	})
}

// transportError is an error of reaching the server. It unwraps to a refused connection, but not to
// a cause that holds the error of a deadline, since that is not the caller's.
type transportError struct{ cause error }

func (e *transportError) Error() string {
	return fmt.Sprintf("%v: %v", provider.ErrProviderUnavailable, e.cause)
}

func (e *transportError) Unwrap() []error {
	refused, ok := errors.AsType[*net.OpError](e.cause)
	if !ok || errors.Is(refused, context.DeadlineExceeded) {
		return []error{provider.ErrProviderUnavailable}
	}
	return []error{provider.ErrProviderUnavailable, refused}
}

// outage returns the sentinel for an answer that is not about the key.
//
// The circuit breaker of package service counts [provider.ErrProviderUnavailable] as an outage.
// Errors that prove that the server is up are listed in its isAnswer.
func outage(answered *api.ResponseError) error {
	switch {
	case answered.StatusCode == http.StatusServiceUnavailable && strings.Contains(strings.Join(answered.Errors, " "), "sealed"):
		return fmt.Errorf("%w: the server is sealed; unseal it", provider.ErrProviderUnavailable)
	case answered.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w: a rate limit of the server is exceeded", provider.ErrProviderUnavailable)
	case answered.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: the token is not valid or has expired", provider.ErrAccessDenied)
	}
	return provider.ErrProviderUnavailable
}

// loginError returns the error of a login.
func loginError(err error) error {
	answered, ok := errors.AsType[*api.ResponseError](err)
	if ok && (answered.StatusCode == http.StatusBadRequest || answered.StatusCode == http.StatusForbidden || answered.StatusCode == http.StatusUnauthorized || answered.StatusCode == http.StatusNotFound) {
		return fmt.Errorf("%w: the login failed: %w", provider.ErrAccessDenied, asAnswer(err))
	}
	return clientError(err)
}

// clientError returns the error of a call whose answer HashiCorp's client itself parses. If it
// can't, the answer has broken off, or is not the server's.
func clientError(err error) error {
	_, answered := errors.AsType[*api.ResponseError](err)
	_, unsent := errors.AsType[*url.Error](err)
	switch {
	case answered || unsent || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return asAnswer(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &cutError{err}
	}
	return fmt.Errorf("%w: this is no answer of the server; check the address and proxies on the way: %w", provider.ErrProviderUnavailable, err)
}

// judgeAnswer returns the error for an answer to an operation, with what to do about it.
func judgeAnswer(ctx context.Context, operation, path, key string, err error) error {
	answered, ok := errors.AsType[*api.ResponseError](err)
	if !ok || ctx.Err() != nil {
		return judge(ctx, err)
	}
	return fmt.Errorf("%w: %w", sentinel(operation, path, key, answered), asAnswer(err))
}

// sentinel returns the sentinel for an answer of the transit engine. Answers with status
// 400 differ by their words alone.
func sentinel(operation, path, key string, answered *api.ResponseError) error {
	text := strings.Join(answered.Errors, " ")
	has := func(words string) bool { return strings.Contains(text, words) }
	switch status := answered.StatusCode; {
	case answered.RawError && status < http.StatusInternalServerError && status != http.StatusTooManyRequests:
		return fmt.Errorf("%w: this is no answer of the server; check the address and proxies on the way", provider.ErrProviderUnavailable)
	case status == http.StatusForbidden:
		capability := "update"
		if operation == "keys" {
			capability = "read"
		}
		return fmt.Errorf("%w: the token is not valid or has expired, or its policies lack path %q { capabilities = [%q] }", provider.ErrAccessDenied, path, capability)
	case status == http.StatusNotFound && has("no handler for route"):
		return fmt.Errorf("%w: no transit engine is mounted at the path of %s", provider.ErrKeyNotFound, key)
	case status == http.StatusNotFound, has("encryption key not found"):
		return fmt.Errorf("%w: there is no key %s", provider.ErrKeyNotFound, key)
	case status != http.StatusBadRequest && status != http.StatusMethodNotAllowed:
		return outage(answered)
	case status == http.StatusMethodNotAllowed, has("unsupported path"), has("non-AEAD"), has("not supported"), has("key derivation"):
		return fmt.Errorf("%w: it is derived or of a type without associated data, or %s is no transit engine", provider.ErrKeyUsage, path)
	case has("too old"):
		return fmt.Errorf("%w: the version that encrypted this is below the key's min_decryption_version; lower that to decrypt it", provider.ErrKeyDisabled)
	case has("soft-deleted"):
		return fmt.Errorf("%w: the key is soft-deleted; restore it to use it", provider.ErrKeyPendingDeletion)
	case operation == "decrypt":
		return provider.ErrDecryptionFailed
	}
	return provider.ErrEncryptionFailed
}
