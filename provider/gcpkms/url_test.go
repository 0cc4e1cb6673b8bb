package gcpkms_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/gcpkms"
)

func parse(t testing.TB, text string) (gcpkms.Config, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		return gcpkms.Config{}, err
	}
	return gcpkms.ParseURL(u)
}

const keyURL = "gcpkms://projects/my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/my-key"

func TestParseURL(t *testing.T) {
	plain := gcpkms.Config{ProjectID: "my-project", Location: "europe-west1", KeyRing: "my-ring", KeyName: "my-key"}
	local := plain
	local.Endpoint = "http://127.0.0.1:9000"
	domain := plain
	domain.ProjectID = "example.com:my-project"
	for text, want := range map[string]gcpkms.Config{
		keyURL: plain,
		keyURL + "?endpoint=http://127.0.0.1:9000":                                                           local,
		"gcpkms://projects/example.com:my-project/locations/europe-west1/keyRings/my-ring/cryptoKeys/my-key": domain,
	} {
		got, err := parse(t, text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for text, reason := range map[string]string{
		"awskms://alias/x":  "the scheme is",
		"gcpkms://":         "names no key",
		"gcpkms:projects/p": "names no key",
		"gcpkms://my-key":   "names no key",
		"gcpkms://projects/p/locations/l/keyRings/r": "names no key",
		keyURL + "/":                                   "names no key",
		keyURL + "/cryptoKeyVersions/3":                "leave /cryptoKeyVersions/3 out",
		keyURL + "?region=x":                           "unknown parameter",
		keyURL + "?endpoint=":                          "is empty",
		keyURL + "?endpoint=localhost:9000":            "endpoint",
		keyURL + "?endpoint=http://user:password@host": "user information",
		keyURL + "#x":                                  "fragment",
		"gcpkms://projects/p%20/locations/l/keyRings/r/cryptoKeys/k": "",
	} {
		_, err := parse(t, text)
		require.Error(t, err, text)
		require.ErrorContains(t, err, reason)
		require.NotContains(t, err.Error(), "password")
		if reason != "" {
			require.ErrorIs(t, err, provider.ErrInvalidKey)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add(keyURL)
	f.Add(keyURL + "?endpoint=http://127.0.0.1:9000")
	f.Add(keyURL + "/cryptoKeyVersions/3")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(t, text)
		if err != nil {
			return
		}
		again, err := parse(t, "gcpkms://"+fmt.Sprintf("projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s", c.ProjectID, c.Location, c.KeyRing, c.KeyName))
		require.NoError(t, err, "what is read can be written")
		c.Endpoint = ""
		require.Equal(t, c, again)
	})
}

func TestConfig(t *testing.T) {
	valid := gcpkms.Config{ProjectID: "p", Location: "l", KeyRing: "r", KeyName: "k", CheckLater: true, Endpoint: "http://127.0.0.1:1"}
	require.Equal(t, "projects/p/locations/l/keyRings/r/cryptoKeys/k", open(t, valid).KeyID())
	for text, change := range map[string]func(*gcpkms.Config){
		"ProjectID is empty":       func(c *gcpkms.Config) { c.ProjectID = "" },
		"Location is empty":        func(c *gcpkms.Config) { c.Location = "" },
		"KeyRing is empty":         func(c *gcpkms.Config) { c.KeyRing = "" },
		"KeyName is empty":         func(c *gcpkms.Config) { c.KeyName = "" },
		"not the resource name":    func(c *gcpkms.Config) { c.KeyName = "k/cryptoKeyVersions/1" },
		"TrustedKeys holds \"k\"":  func(c *gcpkms.Config) { c.TrustedKeys = []string{"k"} },
		"MaxRetries is -1":         func(c *gcpkms.Config) { c.MaxRetries = -1 },
		"Timeout is -1ns":          func(c *gcpkms.Config) { c.Timeout = -1 },
		"the endpoint \"host:80\"": func(c *gcpkms.Config) { c.Endpoint = "host:80" },
	} {
		c := valid
		change(&c)
		_, err := gcpkms.NewProvider(t.Context(), c)
		require.ErrorIs(t, err, provider.ErrInvalidKey)
		require.ErrorContains(t, err, text)
	}
}
