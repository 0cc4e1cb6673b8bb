package azurekeyvault_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/azurekeyvault/azurekeyvaulttest"
	"piko.sh/pikokms/service"
)

func TestErrors(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	c := config(server, server.CreateKey(azurekeyvaulttest.Key{Type: "oct-HSM"}))
	c.MaxRetries = 1
	p := open(t, c)
	made, err := p.GenerateDataKey(t.Context(), nil)
	require.NoError(t, err)
	defer made.Close()
	operations := map[string]func() error{
		"WrapKey": func() error {
			_, err := p.GenerateDataKey(t.Context(), nil)
			return err
		},
		"UnwrapKey": func() error {
			_, err := p.UnwrapDataKey(t.Context(), &provider.UnwrapDataKeyRequest{EncryptedKey: made.EncryptedKey, Size: 32})
			return err
		},
		"GetKey": func() error {
			_, err := p.GetKeyInfo(t.Context(), "")
			return err
		},
	}
	for name, c := range map[string]struct {
		status      int
		code, inner string
		message     string
		sentinel    error // of all operations, or nil
		text        string
		tries       int
	}{
		"fault":             {500, "InternalServerError", "", "refused", provider.ErrProviderUnavailable, "", 2},
		"unavailable":       {503, "ServiceUnavailable", "", "refused", provider.ErrProviderUnavailable, "", 2},
		"timeout":           {408, "Timeout", "", "refused", provider.ErrProviderUnavailable, "", 2},
		"throttled":         {429, "Throttled", "", "refused", provider.ErrProviderUnavailable, "too many requests", 2},
		"no vault":          {404, "", "", "", provider.ErrProviderUnavailable, "no answer of a vault", 1},
		"missing":           {404, "KeyNotFound", "", "refused", provider.ErrKeyNotFound, p.KeyID(), 1},
		"policy":            {403, "Forbidden", "AccessDenied", "refused", provider.ErrAccessDenied, "access policy", 1},
		"role":              {403, "Forbidden", "ForbiddenByRbac", "refused", provider.ErrAccessDenied, "Key Vault Crypto Service Encryption User on " + p.KeyID(), 1},
		"firewall":          {403, "Forbidden", "ForbiddenByFirewall", "refused", provider.ErrAccessDenied, "firewall", 1},
		"token":             {401, "Unauthorized", "", "refused", provider.ErrAccessDenied, "tenant", 1},
		"disabled":          {403, "Forbidden", "KeyDisabled", "refused", provider.ErrKeyDisabled, "enable it", 1},
		"disabled in words": {403, "Forbidden", "", "Operation x is not allowed on a disabled key. refused", provider.ErrKeyDisabled, "", 1},
		"expired":           {403, "Forbidden", "", "Operation x is not allowed on an expired key. refused", provider.ErrKeyDisabled, "expired", 1},
		"operation":         {403, "Forbidden", "KeyOperationForbidden", "refused", provider.ErrKeyUsage, "permitted operations", 1},
		"being deleted":     {409, "Conflict", "ObjectIsBeingDeleted", "refused", provider.ErrKeyPendingDeletion, "", 1},
		"bad":               {400, "BadParameter", "", "refused\r\nin two lines", nil, "refused in two lines", 1},
	} {
		for operation, ask := range operations {
			t.Run(name+", "+operation, func(t *testing.T) {
				defer server.Inject(kmstest.Fault{Operation: operation, Do: azurekeyvaulttest.Error(c.status, c.code, c.inner, c.message)})()
				server.Reset()
				err := ask()
				sentinel := c.sentinel
				if sentinel == nil {
					sentinel = map[string]error{"WrapKey": provider.ErrEncryptionFailed, "UnwrapKey": provider.ErrDecryptionFailed, "GetKey": provider.ErrInvalidKey}[operation]
				}
				require.ErrorIs(t, err, sentinel)
				require.ErrorContains(t, err, c.text)
				if c.message != "" {
					require.ErrorContains(t, err, "refused", "what the vault says is kept")
				}
				require.NotContains(t, err.Error(), "\n")
				require.Equal(t, c.tries, server.Calls(operation), "MaxRetries is 1")
			})
		}
	}
}

// An access policy may permit decryption only, which does not need to see the key.
func TestCheckWithoutPermissionToDescribe(t *testing.T) {
	server := azurekeyvaulttest.NewServer(t)
	name := server.CreateKey(azurekeyvaulttest.Key{})
	sealed := seal(t, open(t, config(server, name)), nil)
	denied := azurekeyvaulttest.Error(403, "Forbidden", "AccessDenied", "The user, group or application does not have keys get permission.")
	defer server.Inject(kmstest.Fault{Operation: "GetKey", Do: denied})()
	reader := open(t, config(server, name))
	require.NoError(t, unseal(t, reader, sealed))
	_, err := reader.GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
	require.ErrorContains(t, err, "GetKey needs")
	defer server.Inject(kmstest.Fault{Operation: "UnwrapKey", Do: denied})()
	_, err = azurekeyvault.NewProvider(t.Context(), config(server, name))
	require.ErrorIs(t, err, provider.ErrAccessDenied)
}

// With CheckLater nothing is asked, and the vault may be down.
func TestCheckLater(t *testing.T) {
	c := azurekeyvault.Config{Vault: "my-vault", Key: "k", Endpoint: "http://127.0.0.1:1", MaxRetries: 1}
	_, err := azurekeyvault.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
	require.ErrorContains(t, err, c.Endpoint)
	c.CheckLater = true
	_, err = open(t, c).GenerateDataKey(t.Context(), nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
}

// The circuit breaker opens for outages and throttling, and not for answers that show that the
// vault is up.
func TestCircuitBreaker(t *testing.T) {
	const outagesToOpen = 5 // of the circuit breaker of package service
	server := azurekeyvaulttest.NewServer(t)
	name := server.CreateKey(azurekeyvaulttest.Key{Type: "oct-HSM"})
	for status, want := range map[int]service.State{
		http.StatusServiceUnavailable: service.StateOpen, http.StatusTooManyRequests: service.StateOpen, http.StatusBadGateway: service.StateOpen,
		http.StatusForbidden: service.StateClosed, http.StatusNotFound: service.StateClosed, http.StatusBadRequest: service.StateClosed,
	} {
		c := config(server, name)
		c.MaxRetries = 1
		s := service.New(open(t, c), service.Config{})
		defer s.Close()
		remove := server.Inject(kmstest.Fault{Operation: "WrapKey", Do: azurekeyvaulttest.Error(status, "Code", "", "refused")})
		for range outagesToOpen {
			_, err := s.GenerateDataKey(t.Context(), nil)
			require.Error(t, err)
		}
		require.Equal(t, want, s.State(), status)
		remove()
	}
}
