package azurekeyvault_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/azurekeyvault"
	"piko.sh/pikokms/provider/keyurl"
)

func parse(text string) (azurekeyvault.Config, error) {
	u, err := url.Parse(text)
	if err != nil {
		return azurekeyvault.Config{}, err
	}
	return azurekeyvault.ParseURL(u)
}

const someVersion = "0123456789abcdef0123456789abcdef"

func TestParseURL(t *testing.T) {
	for text, want := range map[string]azurekeyvault.Config{
		"azurekeyvault://my-vault/my-key":                                         {Vault: "my-vault", Key: "my-key"},
		"azurekeyvault://my-vault/My-Key/" + someVersion:                          {Vault: "my-vault", Key: "My-Key", Version: someVersion},
		"azurekeyvault://my-vault.vault.azure.net/k":                              {Vault: "my-vault.vault.azure.net", Key: "k"},
		"azurekeyvault://my-vault.vault.azure.cn/k":                               {Vault: "my-vault.vault.azure.cn", Key: "k"},
		"azurekeyvault://my-vault.vault.usgovcloudapi.net/k":                      {Vault: "my-vault.vault.usgovcloudapi.net", Key: "k"},
		"azurekeyvault://my-hsm.managedhsm.azure.net/k":                           {Vault: "my-hsm.managedhsm.azure.net", Key: "k"},
		"azurekeyvault://my-vault/k?endpoint=http://127.0.0.1:9000":               {Vault: "my-vault", Key: "k", Endpoint: "http://127.0.0.1:9000"},
		"azurekeyvault://v.vault.example/k?endpoint=https://proxy.example.com:44": {Vault: "v.vault.example", Key: "k", Endpoint: "https://proxy.example.com:44"},
	} {
		got, err := parse(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for text, reason := range map[string]string{
		"awskms://v/k":                                                  "the scheme is",
		"azurekeyvault:v/k":                                             "slashes are missing",
		"azurekeyvault://":                                              "write azurekeyvault://VAULT/KEY",
		"azurekeyvault://my-vault":                                      "write azurekeyvault://VAULT/KEY",
		"azurekeyvault://my-vault/":                                     "write azurekeyvault://VAULT/KEY",
		"azurekeyvault:///my-key":                                       "write azurekeyvault://VAULT/KEY",
		"azurekeyvault://my-vault/k/":                                   "write azurekeyvault://VAULT/KEY",
		"azurekeyvault://my-vault/k/v/x":                                "write azurekeyvault://VAULT/KEY",
		"azurekeyvault://my-vault/keys/k":                               "not the version of a key",
		"azurekeyvault://my-vault/k/latest":                             "not the version of a key",
		"azurekeyvault://my-vault/k_1":                                  "not the name of a key",
		"azurekeyvault://my-vault/..%2fk":                               "",
		"azurekeyvault://ab/k":                                          "no host name of Azure",
		"azurekeyvault://my-vault.example/k":                            "no host name of Azure",
		"azurekeyvault://my-vault:443/k":                                "neither the name of a vault nor a host name",
		"azurekeyvault://vault.azure.net/k":                             "no host name of Azure",
		"azurekeyvault://a.b.vault.azure.net/k":                         "no host name of Azure",
		"azurekeyvault://my-vault.vault.azure.net.evil.example/k":       "no host name of Azure",
		"azurekeyvault://evilvault.azure.net/k":                         "no host name of Azure",
		"azurekeyvault://my-vault/k?version=x":                          "unknown parameter",
		"azurekeyvault://my-vault/k?endpoint=":                          "is empty",
		"azurekeyvault://my-vault/k?endpoint=localhost:9000":            "endpoint",
		"azurekeyvault://my-vault/k?endpoint=https://host/path":         "endpoint",
		"azurekeyvault://my-vault/k?endpoint=http://user:password@host": "user information",
		"azurekeyvault://user:password@my-vault/k":                      "user information",
		"azurekeyvault://my-vault/k#x":                                  "fragment",
		"azurekeyvault://my-vault/" + strings.Repeat("k", 128):          "not the name of a key",
		"azurekeyvault://my-vault-of-more-than-24-letters/k":            "no host name of Azure",
	} {
		_, err := parse(text)
		require.Error(t, err, text)
		require.ErrorContains(t, err, reason)
		require.NotContains(t, err.Error(), "password")
		if reason != "" {
			require.ErrorIs(t, err, provider.ErrInvalidKey)
		}
	}
}

// Azure's tools name keys by their identifiers.
func TestIdentifiers(t *testing.T) {
	for text, want := range map[string]string{
		"https://my-vault.vault.azure.net/keys/k/" + someVersion: "write azurekeyvault://my-vault.vault.azure.net/k/" + someVersion,
		"https://my-hsm.managedhsm.azure.net/keys/k":             "write azurekeyvault://my-hsm.managedhsm.azure.net/k",
		"https://my-vault.vault.azure.net/secrets/k":             "unknown scheme",
		"https://my-vault.example/keys/k":                        "unknown scheme",
	} {
		_, err := keyurl.Parse(text, azurekeyvault.KeyService)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, want)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("azurekeyvault://my-vault/my-key")
	f.Add("azurekeyvault://MY-HSM.managedhsm.azure.cn/K/" + someVersion)
	f.Add("azurekeyvault://v/k?endpoint=https://h")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(text)
		if err != nil {
			return
		}
		c.CheckLater = true
		p, err := azurekeyvault.NewProvider(t.Context(), c)
		require.NoError(t, err, "what is read can be opened")
		require.NoError(t, p.Close())
		host, key, ok := strings.Cut(strings.TrimPrefix(p.KeyID(), "https://"), "/keys/")
		require.True(t, ok)
		again := "azurekeyvault://" + host + "/" + key
		if c.Endpoint != "" {
			again += "?endpoint=" + url.QueryEscape(c.Endpoint)
		}
		read, err := parse(again)
		require.NoError(t, err, "what is read can be written")
		require.Equal(t, strings.ToLower(c.Key), read.Key)
	})
}

func TestConfig(t *testing.T) {
	valid := azurekeyvault.Config{Vault: "My-Vault", Key: "My-Key", CheckLater: true}
	require.Equal(t, "https://my-vault.vault.azure.net/keys/my-key", open(t, valid).KeyID())
	for text, change := range map[string]func(*azurekeyvault.Config){
		"Vault is empty":           func(c *azurekeyvault.Config) { c.Vault = "" },
		"neither the name of":      func(c *azurekeyvault.Config) { c.Vault = "a/b" },
		"no host name of Azure":    func(c *azurekeyvault.Config) { c.Vault = "example.com" },
		"Key is empty":             func(c *azurekeyvault.Config) { c.Key = "" },
		"not the name of a key":    func(c *azurekeyvault.Config) { c.Key = "a/b" },
		"not the version of a key": func(c *azurekeyvault.Config) { c.Version = "1" },
		"the endpoint is not":      func(c *azurekeyvault.Config) { c.Endpoint = "host:80" },
		"MaxRetries is -1":         func(c *azurekeyvault.Config) { c.MaxRetries = -1 },
		"Timeout is -1ns":          func(c *azurekeyvault.Config) { c.Timeout = -1 },
	} {
		c := valid
		change(&c)
		_, err := azurekeyvault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, text)
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "nonsense")
	_, err := azurekeyvault.NewProvider(t.Context(), valid)
	require.ErrorIs(t, err, provider.ErrAccessDenied)
}
