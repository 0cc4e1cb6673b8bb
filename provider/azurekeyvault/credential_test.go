package azurekeyvault_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
)

// tenant is that of the vault.
const tenant = "11111111-2222-3333-4444-555555555555"

// guarded is a vault that is asked by TLS, and asks for a token of its credential.
type guarded struct {
	*credential
	url    string
	client *http.Client
}

func guard(t testing.TB, server *azurekeyvaulttest.Server) *guarded {
	c := new(credential)
	s := httptest.NewTLSServer(c.guard(server))
	t.Cleanup(s.Close)
	return &guarded{c, s.URL, s.Client()}
}

// config is the configuration of a key of the vault.
func (g *guarded) config(key string) azurekeyvault.Config {
	return azurekeyvault.Config{
		Vault: azurekeyvaulttest.Vault, Key: key, Endpoint: g.url, Credential: g.credential, Transport: g.client,
	}
}

// credential gives tokens that the vault takes. It implements azcore.TokenCredential. As
// credentials of Azure do, it gives the same token until the vault asks for other claims.
type credential struct {
	mu       sync.Mutex
	token    string
	revoked  bool
	requests []policy.TokenRequestOptions
}

// asked returns the requests for tokens so far.
func (c *credential) asked() []policy.TokenRequestOptions {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// revoke makes the vault refuse the token that was given, and ask for claims that only a new one
// has, as continuous access evaluation does.
func (c *credential) revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = true
}

const claims = `{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}`

// GetToken implements azcore.TokenCredential.
func (c *credential) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, options)
	switch {
	case options.TenantID != tenant || !slices.Equal(options.Scopes, []string{"https://vault.azure.net/.default"}):
		return azcore.AccessToken{}, fmt.Errorf("a token for tenant %q and scopes %q is not given", options.TenantID, options.Scopes)
	case !options.EnableCAE:
		return azcore.AccessToken{}, errors.New("the client does not answer challenges of continuous access evaluation")
	case options.Claims != "" && options.Claims != claims:
		return azcore.AccessToken{}, fmt.Errorf("the claims are %q", options.Claims)
	case c.token == "" || options.Claims != "":
		c.token, c.revoked = rand.Text(), false
	}
	return azcore.AccessToken{Token: c.token, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// guard asks for a token before it serves.
func (c *credential) guard(served http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		c.mu.Lock()
		known, revoked := ok && given == c.token, c.revoked
		c.mu.Unlock()
		switch {
		case known && !revoked:
			served.ServeHTTP(w, r)
			return
		case known:
			w.Header().Set("WWW-Authenticate", `Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="`+base64.StdEncoding.EncodeToString([]byte(claims))+`"`)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/`+tenant+`", resource="https://vault.azure.net"`)
		}
		azurekeyvaulttest.Error(http.StatusUnauthorized, "Unauthorized", "", "AKV10000: Request is missing a Bearer or PoP token.")(w, r, served)
	})
}
