package vault_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
	"piko.sh/pikokms/provider/vault"
)

func parse(text string) (vault.Config, error) {
	u, err := url.Parse(text)
	if err != nil {
		return vault.Config{}, err
	}
	return vault.ParseURL(u)
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]vault.Config{
		"vault://transit/my-key": {Mount: "transit", Key: "my-key"},
		"vault://a/b_c/my.key":   {Mount: "a/b_c", Key: "my.key"},
		"vault://transit/k?address=https://vault:8200&namespace=team/shop": {Mount: "transit", Key: "k", Address: "https://vault:8200", Namespace: "team/shop"},
	} {
		got, err := parse(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for text, files := range map[string][]string{
		"vault://transit/k?role-id=r&secret-id-file=/run/secret&auth-mount=apps":  {"/run/secret"},
		"vault://transit/k?kubernetes-role=shop":                                  {},
		"vault://transit/k?kubernetes-role=shop&kubernetes-token-file=/run/token": {"/run/token"},
	} {
		key, err := keyurl.Parse(text, vault.KeyService)
		require.NoError(t, err)
		require.Equal(t, files, key.Files)
		c, err := parse(text)
		require.NoError(t, err)
		require.NotNil(t, c.Login)
	}
	for text, reason := range map[string]string{
		"awskms://transit/k":                   "the scheme is",
		"vault:transit/k":                      "slashes are missing",
		"vault://":                             "names a mount and no key",
		"vault://transit":                      "names a mount and no key",
		"vault://transit/":                     "Key is empty",
		"vault:///k":                           "path of a transit engine",
		"vault://transit/../k":                 "path of a transit engine",
		"vault://transit//k":                   "path of a transit engine",
		"vault://transit/k%20":                 "name of a key",
		"vault://transit/k?address=vault:8200": `parameter "address" is not`,
		"vault://transit/k?address=https://user:password@v":                 "user information",
		"vault://transit/k?token=s.x":                                       "unknown parameter",
		"vault://transit/k?secret-id=x":                                     "unknown parameter",
		"vault://transit/k?namespace=":                                      "is empty",
		"vault://transit/k?role-id=r":                                       "role-id needs secret-id-file",
		"vault://transit/k?secret-id-file=f":                                "secret-id-file is for role-id",
		"vault://transit/k?kubernetes-token-file=f":                         "is for kubernetes-role",
		"vault://transit/k?auth-mount=apps":                                 "auth-mount is for",
		"vault://transit/k?role-id=r&secret-id-file=f&kubernetes-role=shop": "role-id and kubernetes-role exclude each other",
		"vault://user:password@transit/k":                                   "user information",
	} {
		_, err := parse(text)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, reason)
		require.NotContains(t, err.Error(), "password")
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("vault://transit/my-key?address=https://vault:8200&namespace=team")
	f.Add("vault://a/b/k?role-id=r&secret-id-file=/run/secret&auth-mount=apps")
	f.Add("vault:///k")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(text)
		if err != nil {
			return
		}
		again, err := parse("vault://" + c.Mount + "/" + c.Key)
		require.NoError(t, err, "what is read can be written")
		require.Equal(t, vault.Config{Mount: c.Mount, Key: c.Key}, again)
	})
}

func TestConfig(t *testing.T) {
	valid := vault.Config{Address: "http://127.0.0.1:1", Key: "k", Token: "t", CheckLater: true}
	require.Equal(t, "transit/k", open(t, valid).KeyID())
	for text, change := range map[string]func(*vault.Config){
		"Key is empty":          func(c *vault.Config) { c.Key = "" },
		"not the name of a key": func(c *vault.Config) { c.Key = "a/b" },
		"path of a transit":     func(c *vault.Config) { c.Mount = "a/../b" },
		"path of a namespace":   func(c *vault.Config) { c.Namespace = "a?b" },
		"the address is not":    func(c *vault.Config) { c.Address = "127.0.0.1:8200" },
		"exclude each other":    func(c *vault.Config) { c.Login = appRole{}.login() },
		"MaxRetries is -1":      func(c *vault.Config) { c.MaxRetries = -1 },
		"Timeout is -1ns":       func(c *vault.Config) { c.Timeout = -1 },
	} {
		c := valid
		change(&c)
		_, err := vault.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, text)
	}
}
