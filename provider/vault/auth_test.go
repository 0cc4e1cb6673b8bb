package vault_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"crypto"
	"crypto/sha256"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"
	"github.com/hashicorp/vault/api/auth/kubernetes"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/vault"
)

// forUse is what a policy for encryption and decryption permits.
func (b *bao) forUse(key string) map[string]string {
	return map[string]string{
		b.mount + "/datakey/plaintext/" + key: "update", b.mount + "/encrypt/" + key: "update", b.mount + "/decrypt/" + key: "update", b.mount + "/keys/" + key: "read",
	}
}

// named makes a policy and returns its name.
func (b *bao) named(paths map[string]string) string {
	b.t.Helper()
	token := newClient(b.t, b.url)
	token.SetToken(b.policy(nil, paths))
	found, err := b.client.Auth().Token().Lookup(token.Token())
	require.NoError(b.t, err)
	for _, policy := range found.Data["policies"].([]any) {
		if policy != "default" {
			return policy.(string)
		}
	}
	b.t.Fatal("the token has no policy")
	return ""
}

func TestTokens(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)

	t.Run("environment", func(t *testing.T) {
		c := c
		c.Token, c.Address = "", ""
		t.Setenv("BAO_ADDR", b.url)
		t.Setenv("BAO_TOKEN", emulator.OpenBaoToken)
		require.NoError(t, unseal(t, open(t, c), sealed))
		t.Setenv("VAULT_TOKEN", "another")
		_, err := vault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrAccessDenied)
	})
	t.Run("stored by vault login", func(t *testing.T) {
		token := filepath.Join(os.Getenv("HOME"), ".vault-token")
		c := c
		c.Token = ""
		_, err := vault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, "vault login")
		require.NoError(t, os.WriteFile(token, []byte(emulator.OpenBaoToken), 0o600))
		defer os.Remove(token)
		require.NoError(t, unseal(t, open(t, c), sealed))
	})
	t.Run("policies", func(t *testing.T) {
		c := c
		encrypt, decrypt := b.mount+"/datakey/plaintext/app-data", b.mount+"/decrypt/app-data"
		c.Token = b.policy(nil, map[string]string{decrypt: "update"})
		p := open(t, c)
		require.NoError(t, unseal(t, p, sealed))
		_, err := p.GenerateDataKey(t.Context(), nil)
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, fmt.Sprintf("path %q { capabilities = [\"update\"] }", encrypt))
		_, err = p.GetKeyInfo(t.Context(), "")
		require.ErrorIs(t, err, provider.ErrAccessDenied)
		require.ErrorContains(t, err, `/keys/app-data" { capabilities = ["read"] }`)

		c.Token = b.policy(nil, map[string]string{encrypt: "update"})
		p = open(t, c)
		seal(t, p, nil)
		require.ErrorIs(t, unseal(t, p, sealed), provider.ErrAccessDenied)

		c.Token = b.policy(nil, map[string]string{"other": "read"})
		_, err = vault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrAccessDenied)
	})
}

// A token is renewed when two thirds of its time are over, and a login is made again when renewal
// does not help.
func TestRenewal(t *testing.T) {
	t.Parallel()
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)

	renewed := map[string]provider.Provider{}
	tokens := map[string]string{
		"token":          b.policy(map[string]any{"ttl": "12s"}, b.forUse("app-data")),
		"periodic token": b.policy(map[string]any{"period": "12s"}, b.forUse("app-data")),
	}
	for name, token := range tokens {
		c := c
		c.Token = token
		renewed[name] = open(t, c)
	}
	var logins [2]atomic.Int64
	for i, settings := range []map[string]any{{"token_ttl": "3s", "token_max_ttl": "3s"}, {"token_ttl": "3s", "token_type": "batch"}} {
		c := between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/login") {
				logins[i].Add(1)
			}
			next.ServeHTTP(w, r)
		})
		c.Token, c.Login = "", b.appRole(settings).login()
		renewed[fmt.Sprint("AppRole", i)] = open(t, c)
	}
	lapsing := c
	lapsing.Token = b.policy(map[string]any{"ttl": "1s", "renewable": false}, b.forUse("app-data"))
	lapsing.CheckLater = true
	lapsed := open(t, lapsing)

	require.Eventually(t, func() bool { return errors.Is(unseal(t, lapsed, sealed), provider.ErrAccessDenied) }, time.Minute, 100*time.Millisecond)
	for _, token := range tokens {
		require.Eventually(t, func() bool {
			found, err := b.client.Auth().Token().Lookup(token)
			return err == nil && found.Data["last_renewal"] != nil
		}, time.Minute, 100*time.Millisecond)
	}
	for i := range logins {
		require.Eventually(t, func() bool { return logins[i].Load() > 1 }, time.Minute, 100*time.Millisecond)
	}
	for name, p := range renewed {
		require.NoError(t, unseal(t, p, sealed), name)
	}
}

// appRole is a role of AppRole with a secret ID.
type appRole struct{ roleID, secretID, mount string }

// login returns the Config's Login by the role.
func (a appRole) login(options ...approle.LoginOption) func() (api.AuthMethod, error) {
	options = append(options, approle.WithMountPath(a.mount))
	return func() (api.AuthMethod, error) {
		return approle.NewAppRoleAuth(a.roleID, &approle.SecretID{FromString: a.secretID}, options...)
	}
}

// appRole makes a role for the key app-data.
func (b *bao) appRole(settings map[string]any) appRole {
	b.t.Helper()
	mount := fmt.Sprintf("approle-%d", mounts.Add(1))
	b.write("sys/auth/"+mount, map[string]any{"type": "approle"})
	role := map[string]any{"token_policies": []string{b.named(b.forUse("app-data"))}}
	for setting, value := range settings {
		role[setting] = value
	}
	b.write("auth/"+mount+"/role/app", role)
	id, err := b.client.Logical().Read("auth/" + mount + "/role/app/role-id")
	require.NoError(b.t, err)
	secret := b.write("auth/"+mount+"/role/app/secret-id", nil)
	return appRole{id.Data["role_id"].(string), secret.Data["secret_id"].(string), mount}
}

// openURL opens the key of a configuration by a URL with a login, which is made later.
func (b *bao) openURL(c vault.Config, login url.Values) provider.Provider {
	b.t.Helper()
	login.Set("address", c.Address)
	key, err := keyurl.Parse("vault://"+c.Mount+"/"+c.Key+"?"+login.Encode(), vault.KeyService)
	require.NoError(b.t, err)
	require.NotEmpty(b.t, key.Files)
	p, err := key.Open(b.t.Context(), keyurl.Options{CheckLater: true})
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, p.(provider.Provider).Close()) })
	return p.(provider.Provider)
}

func TestAppRole(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)
	role := b.appRole(nil)
	c.Token, c.Login = "", role.login()
	require.NoError(t, unseal(t, open(t, c), sealed))

	file := filepath.Join(t.TempDir(), "secret-id")
	require.NoError(t, os.WriteFile(file, []byte(role.secretID), 0o600))
	require.NoError(t, unseal(t, b.openURL(c, url.Values{"role-id": {role.roleID}, "secret-id-file": {file}, "auth-mount": {role.mount}}), sealed))

	wrapping := newClient(t, b.url)
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "1m" })
	wrapped, err := wrapping.Logical().Write("auth/"+role.mount+"/role/app/secret-id", nil)
	require.NoError(t, err)
	once := c
	once.Login = appRole{role.roleID, wrapped.WrapInfo.Token, role.mount}.login(approle.WithWrappingToken())
	require.NoError(t, unseal(t, open(t, once), sealed))

	wrong := c
	wrong.Login = appRole{role.roleID, "wrong", role.mount}.login()
	_, err = vault.NewProvider(t.Context(), wrong)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.ErrorContains(t, err, "the login failed")
	require.NotContains(t, err.Error(), "wrong")
	wrong.Login = appRole{role.roleID, role.secretID, "nowhere"}.login()
	_, err = vault.NewProvider(t.Context(), wrong)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
}

// A token that was revoked is replaced at the next call.
func TestRevoked(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)
	role := b.appRole(nil)
	c.Token, c.Login = "", role.login()
	p := open(t, c)
	require.NoError(t, unseal(t, p, sealed))
	b.write("sys/leases/revoke-prefix/auth/"+role.mount, nil)
	require.NoError(t, unseal(t, p, sealed))
	// A second one within seconds is not: a policy that refuses would cause a login for each call.
	b.write("sys/leases/revoke-prefix/auth/"+role.mount, nil)
	require.ErrorIs(t, unseal(t, p, sealed), provider.ErrAccessDenied)
}

// A caller whose deadline cuts off the login after a refusal does not keep others from logging in.
// While a login is under way, others wait no longer than their own deadlines.
func TestImpatientLogin(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)
	role := b.appRole(nil)
	c.Token, c.Login = "", role.login()
	var stalls atomic.Bool
	begun := make(chan struct{}, 1)
	c = between(t, c, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/login") && stalls.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // so that the end of the connection is noticed
			begun <- struct{}{}
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	p := open(t, c)
	require.NoError(t, unseal(t, p, sealed))
	b.write("sys/leases/revoke-prefix/auth/"+role.mount, nil)
	stalls.Store(true)
	generate := func(ctx context.Context) error {
		_, err := p.GenerateDataKey(ctx, nil)
		return err
	}
	first, cancelFirst := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- generate(first) }()
	<-begun
	second, cancelSecond := context.WithTimeout(t.Context(), time.Second/10)
	defer cancelSecond()
	require.ErrorIs(t, generate(second), context.DeadlineExceeded, "while the first one logs in")
	cancelFirst()
	require.ErrorIs(t, <-failed, context.Canceled)
	stalls.Store(false)
	require.NoError(t, unseal(t, p, sealed))
}

// The server asks Kubernetes, which the test stands in for, whose a service account's token is.
func TestKubernetes(t *testing.T) {
	b := newBao(t)
	c := b.createKey("app-data", nil)
	sealed := seal(t, open(t, c), nil)

	valid := serviceAccountToken(t)
	reviewer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var review struct {
			Spec struct {
				Token string `json:"token"`
			} `json:"spec"`
		}
		_ = json.Unmarshal(body, &review)
		status := map[string]any{"authenticated": review.Spec.Token == valid, "audiences": []string{"vault"}, "user": map[string]any{
			"username": "system:serviceaccount:shop:app", "uid": "0001", "groups": []string{"system:serviceaccounts"},
		}}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
	}))
	t.Cleanup(reviewer.Close)
	mount := fmt.Sprintf("kubernetes-%d", mounts.Add(1))
	b.write("sys/auth/"+mount, map[string]any{"type": "kubernetes"})
	b.write("auth/"+mount+"/config", map[string]any{
		"kubernetes_host":        reviewer.URL,
		"kubernetes_ca_cert":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: reviewer.Certificate().Raw})),
		"token_reviewer_jwt":     valid,
		"disable_iss_validation": true,
	})
	b.write("auth/"+mount+"/role/shop", map[string]any{
		"bound_service_account_names": "app", "bound_service_account_namespaces": "shop", "token_policies": []string{b.named(b.forUse("app-data"))}, "audience": "vault",
	})

	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(valid), 0o600))
	login := func(path string) func() (api.AuthMethod, error) {
		return func() (api.AuthMethod, error) {
			return kubernetes.NewKubernetesAuth("shop", kubernetes.WithServiceAccountTokenPath(path), kubernetes.WithMountPath(mount))
		}
	}
	c.Token, c.Login = "", login(file)
	require.NoError(t, unseal(t, open(t, c), sealed))
	later := b.openURL(c, url.Values{"kubernetes-role": {"shop"}, "kubernetes-token-file": {file}, "auth-mount": {mount}})

	// The file is read at each login, since Kubernetes replaces it.
	require.NoError(t, os.WriteFile(file, []byte("stale"), 0o600))
	err := unseal(t, later, sealed)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.ErrorContains(t, err, "the login failed")
	require.NoError(t, os.WriteFile(file, []byte(valid), 0o600))
	require.NoError(t, unseal(t, later, sealed))

	c.Login = login(filepath.Join(t.TempDir(), "none"))
	_, err = vault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
}

// serviceAccountToken returns a JWT as Kubernetes makes them.
func serviceAccountToken(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	part := func(v any) string {
		text, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"iss": "https://kubernetes.default.svc", "aud": []string{"vault"}, "sub": "system:serviceaccount:shop:app",
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "app", "uid": "0001"}},
	})
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	require.NoError(t, err)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
