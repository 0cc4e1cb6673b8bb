package azurekeyvault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"piko.sh/pikokms/provider"
)

// operation is a method of Azure's client.
type operation struct {
	name       string
	permission string // of an access policy; Azure's roles have it as an action
	failure    error  // the sentinel for what is wrong with the request itself
	hint       string // what that may be, or nothing
}

var (
	getKey        = operation{"GetKey", "get", provider.ErrInvalidKey, ""}
	getDeletedKey = operation{"GetDeletedKey", "get", provider.ErrInvalidKey, ""}
	wrapKey       = operation{"WrapKey", "wrapKey", provider.ErrEncryptionFailed, ": an AES key must have 256 bits"}
	unwrapKey     = operation{"UnwrapKey", "unwrapKey", provider.ErrDecryptionFailed, ""}
)

// fail returns the error of an operation of the provider.
func (p *keyring) fail(ctx context.Context, operation string, err error) error {
	failure := provider.Failure(operation, p.Type(), p.id, err)
	failure.Err = provider.Judge(ctx, failure.Err, func(err error) error { return err })
	if errors.Is(failure.Err, provider.ErrProviderUnavailable) && !strings.Contains(failure.Err.Error(), p.address) {
		failure.Err = fmt.Errorf("%s: %w", p.address, failure.Err) // what answers at this address may not be the vault
	}
	return failure
}

// judge adds a sentinel to an error of a call that has none yet.
func (p *keyring) judge(ctx context.Context, op operation, err error) error {
	return provider.Judge(ctx, err, func(err error) error {
		if answered, ok := errors.AsType[*azcore.ResponseError](err); ok {
			a := newAnswerError(answered)
			return fmt.Errorf("%w: %w", p.sentinel(op, a), a)
		}
		if refused, ok := errors.AsType[*tokenError](err); ok {
			return fmt.Errorf("%w: %w", login(refused), refused)
		}
		return &transportError{err, p.timeout}
	})
}

// answerError is an error that a vault answered, in one line.
type answerError struct {
	*azcore.ResponseError
	code, inner, message string // inner is the more specific of the codes
}

func newAnswerError(answered *azcore.ResponseError) *answerError {
	a := &answerError{ResponseError: answered}
	text, err := runtime.Payload(answered.RawResponse)
	if err != nil {
		return a // this can't happen, since the answer is in memory
	}
	var body struct {
		Error struct {
			Code       string `json:"code"`
			Message    string `json:"message"`
			InnerError struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &body) == nil {
		a.code, a.message, a.inner = body.Error.Code, body.Error.Message, body.Error.InnerError.Code
	}
	return a
}

func (e *answerError) Error() string {
	text := e.message
	if text == "" {
		text = http.StatusText(e.StatusCode)
	}
	for _, code := range []string{e.inner, e.code} {
		if code != "" {
			return oneLine(fmt.Sprintf("HTTP %d %s: %s", e.StatusCode, code, text))
		}
	}
	return oneLine(fmt.Sprintf("HTTP %d: %s", e.StatusCode, text))
}

func (e *answerError) Unwrap() error { return e.ResponseError }

// oneLine returns a text in one line, and cuts one that is very long.
func oneLine(text string) string {
	const most = 2000
	line := strings.Join(strings.Fields(text), " ")
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	return line
}

// transportError is the error of a request that did not reach a vault, or that something else
// answered. It unwraps to a refused connection, but not to a cause that holds the error of a
// deadline, since that is not the caller's.
type transportError struct {
	cause   error
	timeout interface{ String() string }
}

func (e *transportError) Error() string {
	if errors.Is(e.cause, context.DeadlineExceeded) {
		return fmt.Sprintf("%v: no answer within %v", provider.ErrProviderUnavailable, e.timeout)
	}
	return fmt.Sprintf("%v: %s", provider.ErrProviderUnavailable, oneLine(e.cause.Error()))
}

func (e *transportError) Unwrap() []error {
	refused, ok := errors.AsType[*net.OpError](e.cause)
	if !ok || errors.Is(refused, context.DeadlineExceeded) || errors.Is(refused, context.Canceled) {
		return []error{provider.ErrProviderUnavailable}
	}
	return []error{provider.ErrProviderUnavailable, refused}
}

// login returns the sentinel for a login that failed.
func login(refused *tokenError) error {
	failed, ok := errors.AsType[*azidentity.AuthenticationFailedError](refused)
	if ok && failed.RawResponse != nil && isOutage(failed.RawResponse.StatusCode) {
		return fmt.Errorf("%w: Microsoft Entra ID gives no token", provider.ErrProviderUnavailable)
	}
	return fmt.Errorf("%w: no token; run az login, set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give the machine an identity", provider.ErrAccessDenied)
}

func isOutage(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
}

// sentinel returns the sentinel for what a vault answered, with what to do about it. Azure
// documents few of the inner codes, so the words of the message count, too.
//
// The circuit breaker of package service counts [provider.ErrProviderUnavailable] as an outage.
// Errors that prove that the vault is up are listed in its isAnswer.
func (p *keyring) sentinel(op operation, a *answerError) error {
	mentions := func(words string) bool { return strings.Contains(strings.ToLower(a.message), words) }
	switch status := a.StatusCode; {
	case status == http.StatusTooManyRequests:
		return fmt.Errorf("%w: the vault gets too many requests; cache data keys, or spread the load over several vaults", provider.ErrProviderUnavailable)
	case isOutage(status):
		return provider.ErrProviderUnavailable
	case a.code == "":
		return fmt.Errorf("%w: this is no answer of a vault; check the endpoint and proxies on the way", provider.ErrProviderUnavailable)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("%w: the vault refuses the token; check that the credentials are of the vault's tenant", provider.ErrAccessDenied)
	case a.inner == "KeyDisabled" || mentions("disabled key"):
		return fmt.Errorf("%w: the version is disabled; enable it to use it", provider.ErrKeyDisabled)
	case a.inner == "KeyExpired" || a.inner == "KeyNotYetValid" || mentions("expired key") || mentions("not yet valid"):
		return fmt.Errorf("%w: the version has expired, or is not valid yet; make a new version or change its dates", provider.ErrKeyDisabled)
	case a.inner == "KeyOperationForbidden" || mentions("is not permitted on this key"):
		return fmt.Errorf("%w: the key's permitted operations lack %s", provider.ErrKeyUsage, op.permission)
	case a.inner == "ForbiddenByFirewall" || a.inner == "ForbiddenByConnection":
		return fmt.Errorf("%w: the vault's firewall refuses this address", provider.ErrAccessDenied)
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: %s needs %s", provider.ErrAccessDenied, op.name, p.permissionFor(op))
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: there is no key %s, or no such version of it", provider.ErrKeyNotFound, p.id)
	case status == http.StatusConflict:
		return fmt.Errorf("%w: the key is being deleted or recovered", provider.ErrKeyPendingDeletion)
	}
	return fmt.Errorf("%w%s", op.failure, op.hint)
}

// permissionFor returns what permits an operation (Azure documentation, "Azure built-in roles for
// Security" and "Local RBAC built-in roles for Managed HSM").
func (p *keyring) permissionFor(op operation) string {
	if strings.Contains(p.host, ".managedhsm.") {
		return fmt.Sprintf("the role Managed HSM Crypto Service Encryption User on /keys/%s", p.key)
	}
	return fmt.Sprintf("the role Key Vault Crypto Service Encryption User on %s, or the key permission %s in the vault's access policy", p.id, op.permission)
}
