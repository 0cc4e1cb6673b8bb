package azurekeyvault_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
)

// The vault's challenge says for what and of which tenant to get a token, and continuous access
// evaluation asks for another one while the first is still valid.
func TestChallenges(t *testing.T) {
	for _, kind := range kinds {
		server := azurekeyvaulttest.NewServer(t)
		vault := guard(t, server)
		p := open(t, vault.config(server.CreateKey(kind)))
		require.Len(t, vault.asked(), 1)
		sealed := seal(t, p, nil)
		require.NoError(t, unseal(t, p, sealed))
		require.Len(t, vault.asked(), 1, "one token for all")

		vault.revoke()
		require.NoError(t, unseal(t, p, sealed))
		asked := vault.asked()
		require.Len(t, asked, 2)
		require.Contains(t, asked[1].Claims, `"nbf"`)
		require.True(t, asked[1].EnableCAE)
		vault.revoke()
		require.NoError(t, unseal(t, p, seal(t, p, nil)))
		require.Len(t, vault.asked(), 3)
	}
}

// credentialFunc is a credential.
type credentialFunc func(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error)

func (f credentialFunc) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return f(ctx, options)
}

// Whoever stands at an endpoint gets a token for the service of the vault only, and can't end the
// process by a challenge that is none.
func TestChallengesThatNoVaultMakes(t *testing.T) {
	var challenge atomic.Value
	challenger := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("it got a token")
		}
		w.Header().Set("WWW-Authenticate", challenge.Load().(string))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer challenger.Close()
	for _, c := range []string{
		`Bearer authorization="https://login.microsoftonline.com/t", resource="https://management.azure.com"`,
		`Bearer authorization="https://login.microsoftonline.com/t", scope="https://graph.microsoft.com/.default"`,
		`Bearer authorization="https://login.microsoftonline.com/t", resource="https://azure.net.evil.example"`,
		`Bearer authorization="https://login.microsoftonline.com/t", resource="vault.azure.net"`,
		`Bearer authorization="https://login.microsoftonline.com/t", resource="https://"`,
		`Bearer authorization="https://login.microsoftonline.com/t"`,
		`Bearer authorization="x", resource="https://vault.azure.net"`,
		`Bearer authorization=/, resource="https://vault.azure.net"`,
		`Bearer authorization="https://a/b/c", authorization="x", resource="https://vault.azure.net"`,
		`Bearer authorizBearer ation="x" resource="https://vault.azure.net"`,
		`Bearer error="insufficient_claims", claims="*"`,
		`Basic realm="x"`, "Bearer", " ", "",
	} {
		challenge.Store(c)
		_, err := azurekeyvault.NewProvider(t.Context(), azurekeyvault.Config{
			Vault: "my-vault", Key: "k", Endpoint: challenger.URL, Transport: challenger.Client(), MaxRetries: 1, Timeout: 5 * time.Second,
			Credential: credentialFunc(func(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
				t.Error("it was asked for a token")
				return azcore.AccessToken{}, errors.New("no")
			}),
		})
		require.ErrorIs(t, err, provider.ErrProviderUnavailable, c)
		require.NotContains(t, err.Error(), "\n")
	}
}

// A login that fails is no outage of the vault, unless Microsoft Entra ID does not answer.
func TestLoginsThatFail(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	name := server.CreateKey(azurekeyvaulttest.Key{})
	sealed := seal(t, open(t, config(server, name)), nil)
	failed := func(status int) error {
		return &azidentity.AuthenticationFailedError{RawResponse: &http.Response{StatusCode: status, Body: http.NoBody}}
	}
	for text, c := range map[string]struct{ failure, sentinel error }{
		"no token; run az login": {azidentity.NewCredentialUnavailableError("none\n\tat all"), provider.ErrAccessDenied},
		"no token; run az":       {failed(http.StatusUnauthorized), provider.ErrAccessDenied},
		"Entra ID gives no":      {failed(http.StatusServiceUnavailable), provider.ErrProviderUnavailable},
	} {
		config := guard(t, server).config(name)
		config.CheckLater = true
		config.Credential = credentialFunc(func(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
			return azcore.AccessToken{}, c.failure
		})
		err := unseal(t, open(t, config), sealed)
		require.ErrorIs(t, err, c.sentinel)
		require.ErrorContains(t, err, text)
		require.NotContains(t, err.Error(), "\n")
	}
	slow := guard(t, server).config(name)
	slow.CheckLater, slow.Timeout = true, 100*time.Millisecond
	slow.Credential = credentialFunc(func(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
		<-ctx.Done()
		return azcore.AccessToken{}, errors.New("too late")
	})
	err := unseal(t, open(t, slow), sealed)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.ErrorContains(t, err, "no answer within 100ms")
}

// alone is a transport that reaches the vault, but nothing else. It keeps the hosts.
type alone struct {
	vault policy.Transporter
	asked []string
}

func (a *alone) Do(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == "127.0.0.1" {
		return a.vault.Do(r)
	}
	a.asked = append(a.asked, r.URL.Host)
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

// refusing is a transport that does not reach Microsoft Entra ID at first. Then that refuses the
// login.
type refusing struct {
	vault policy.Transporter
	asked int
}

func (r *refusing) Do(request *http.Request) (*http.Response, error) {
	if request.URL.Hostname() == "127.0.0.1" {
		return r.vault.Do(request)
	}
	if r.asked++; r.asked == 1 {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	w := httptest.NewRecorder()
	w.WriteHeader(http.StatusUnauthorized)
	_, err := w.WriteString(`{"error":"invalid_client","error_description":"the secret has expired"}`)
	response := w.Result()
	response.Request = request
	return response, err
}

// A login that is refused at its second attempt is no outage.
func TestLoginThatIsRefusedLater(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	t.Setenv("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555")
	t.Setenv("AZURE_CLIENT_ID", "app")
	t.Setenv("AZURE_CLIENT_SECRET", "hidden")
	server := azurekeyvaulttest.NewServer(t)
	c := guard(t, server).config(server.CreateKey(azurekeyvaulttest.Key{}))
	transport := &refusing{vault: c.Transport}
	c.Credential, c.Transport = nil, transport
	_, err := azurekeyvault.NewProvider(t.Context(), c)
	require.Greater(t, transport.asked, 1)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.NotErrorIs(t, err, provider.ErrProviderUnavailable)
	require.NotContains(t, err.Error(), "hidden")
}

// Without a credential, tokens are from the cloud of the vault's name, as Azure's tools get them.
func TestClouds(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	t.Setenv("AZURE_TENANT_ID", "11111111-2222-3333-4444-555555555555")
	t.Setenv("AZURE_CLIENT_ID", "app")
	t.Setenv("AZURE_CLIENT_SECRET", "SECRET")
	for vault, c := range map[string]struct{ resource, authority string }{
		"my-vault":                            {"https://vault.azure.net", "login.microsoftonline.com"},
		"my-hsm.managedhsm.azure.net":         {"https://managedhsm.azure.net", "login.microsoftonline.com"},
		"my-vault.vault.azure.cn":             {"https://vault.azure.cn", "login.chinacloudapi.cn"},
		"my-hsm.managedhsm.azure.cn":          {"https://managedhsm.azure.cn", "login.chinacloudapi.cn"},
		"MY-VAULT.vault.usgovcloudapi.net":    {"https://vault.usgovcloudapi.net", "login.microsoftonline.us"},
		"my-hsm.managedhsm.usgovcloudapi.net": {"https://managedhsm.usgovcloudapi.net", "login.microsoftonline.us"},
	} {
		t.Run(vault, func(t *testing.T) {
			t.Parallel() // each waits for the timeout, since the login is tried again until then
			challenger := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555", resource="`+c.resource+`"`)
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer challenger.Close()
			transport := &alone{vault: challenger.Client()}
			_, err := azurekeyvault.NewProvider(t.Context(), azurekeyvault.Config{
				Vault: vault, Key: "k", Endpoint: challenger.URL, Transport: transport, MaxRetries: 1, Timeout: 3 * time.Second,
			})
			require.ErrorIs(t, err, provider.ErrProviderUnavailable, "%v", err)
			require.ErrorContains(t, err, "connection refused")
			require.NotContains(t, err.Error(), "SECRET")
			require.NotContains(t, err.Error(), "\n")
			require.Contains(t, transport.asked, c.authority)
		})
	}
}
