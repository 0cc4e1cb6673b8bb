package azurekeyvault

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"piko.sh/pikokms/provider"
)

// credential gets tokens for one vault. It marks the errors of a login, so that they can be
// distinguished from those of the vault.
type credential struct {
	azcore.TokenCredential
	vault string // the host name
}

// newCredential returns a credential for the vault, or nil for an emulator.
func (c *Config) newCredential(inner policy.Transporter) (azcore.TokenCredential, error) {
	if strings.HasPrefix(c.Endpoint, "http:") {
		return nil, nil
	}
	if c.Credential != nil {
		return &credential{c.Credential, c.Vault}, nil
	}
	options := new(azidentity.DefaultAzureCredentialOptions)
	options.Transport = loginTransport{inner}
	// AZURE_AUTHORITY_HOST goes first, as in Azure's tools.
	if s, _ := suffixOf(c.Vault); os.Getenv("AZURE_AUTHORITY_HOST") == "" {
		options.Cloud.ActiveDirectoryAuthorityHost = s.authority
	}
	found, err := azidentity.NewDefaultAzureCredential(options)
	if err != nil {
		return nil, fmt.Errorf("%w: no credentials: %w", provider.ErrAccessDenied, err)
	}
	return &credential{found, c.Vault}, nil
}

// GetToken implements azcore.TokenCredential. The challenge of the endpoint names the service that
// the token is for. GetToken refuses any other service than the vault's, so that a false endpoint
// can't get a token for another one.
func (c *credential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	for _, scope := range options.Scopes {
		u, err := url.Parse(scope)
		if err != nil || u.Host == "" || !strings.HasSuffix(c.vault, "."+u.Host) {
			return azcore.AccessToken{}, fmt.Errorf("it asks for a token for %q, which is not the service of %s", scope, c.vault)
		}
	}
	token, err := c.TokenCredential.GetToken(ctx, options)
	if err == nil {
		return token, nil
	}
	if call, ok := ctx.Value(exchangeKey{}).(*exchange); ok && call.unreached != nil {
		return azcore.AccessToken{}, fmt.Errorf("getting a token: %w", call.unreached)
	}
	if ended := ctx.Err(); ended != nil {
		return azcore.AccessToken{}, fmt.Errorf("getting a token: %w", ended)
	}
	return azcore.AccessToken{}, &tokenError{err}
}

// tokenError is the error of a login that was refused, or of missing credentials.
type tokenError struct{ cause error }

func (e *tokenError) Error() string { return oneLine(e.cause.Error()) }

func (e *tokenError) Unwrap() error { return e.cause }

// loginTransport sends the requests of a login. Azure's credentials turn their errors into text, so
// it notes whether the last request reached Microsoft Entra ID. A request without TLS goes to a
// service of the machine, which most machines do not have.
type loginTransport struct{ inner policy.Transporter }

// Do implements policy.Transporter.
func (t loginTransport) Do(request *http.Request) (*http.Response, error) {
	response, err := t.inner.Do(request)
	if call, ok := request.Context().Value(exchangeKey{}).(*exchange); ok && request.URL.Scheme == "https" {
		call.unreached = err
	}
	return response, err
}
