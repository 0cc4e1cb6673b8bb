package azurekeyvaulttest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// tenant is that of the vault.
const tenant = "11111111-2222-3333-4444-555555555555"

// Credential gives tokens that the vault takes. It implements azcore.TokenCredential. As
// credentials of Azure do, it gives the same token until the vault asks for other claims.
type Credential struct {
	mu       sync.Mutex
	token    string
	revoked  bool
	requests []policy.TokenRequestOptions
}

// Requests returns what tokens were asked for.
func (c *Credential) Requests() []policy.TokenRequestOptions {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Revoke makes the vault refuse the token that was given, and ask for claims that only a new one
// has, as continuous access evaluation does.
func (c *Credential) Revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = true
}

const claims = `{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}`

// GetToken implements azcore.TokenCredential.
func (c *Credential) GetToken(_ context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
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
func (c *Credential) guard(served http.Handler) http.Handler {
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
		answer(w, &failure{http.StatusUnauthorized, "Unauthorized", "", "AKV10000: Request is missing a Bearer or PoP token."})
	})
}
