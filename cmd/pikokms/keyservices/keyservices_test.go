package keyservices_test

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/cmd/pikokms/keyservices"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/keyurl"
)

var services = keyservices.All()

func TestWrongTexts(t *testing.T) {
	for text, reason := range map[string]string{
		"":                                       `"" has the unknown scheme ""`,
		"\xff\xfel\x00":                          "it is UTF-16",
		`"local:dev.key"`:                        "quotes around it",
		"alias/backups":                          "write awskms://alias/backups?region=REGION",
		"awskms://arn:aws:kms:eu-west-1:1:key/x": "three slashes, awskms:///ARN",
		"awskms://user:SECRET@alias:SECRET/x":    "invalid port",
		"vault://transit/k?token=SECRET":         `token=xxxxx": unknown parameter "token"`,
		"other://transit/k?token=SECRET":         `unknown scheme "other"; known are awskms, awskms-discovery, `,
		"local:a?token=SECRET":                   `token=xxxxx": unknown parameter "token"`,
		"branchkey:keys.db?master=local:master":  "names no branch key",
		"awskms://alias/x?region=r#a":            "fragment",
	} {
		_, err := keyurl.Parse(text, services...)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, reason, text)
		require.NotContains(t, err.Error(), "SECRET")
	}
}

func TestKeyOfURL(t *testing.T) {
	home := filepath.ToSlash(t.TempDir())
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	for text, want := range map[string]keyurl.Key{
		"\ufeff local:~/my%20dev.key\n": {Files: []string{home + "/my dev.key"}, Local: true},
		"local:dev.key":                 {Files: []string{"dev.key"}, Local: true},
		"awskms://alias/x":              {},
		"vault://transit/k?role-id=x&secret-id-file=~/secret":                     {Files: []string{home + "/secret"}},
		"awskms:///arn:aws:kms:eu-west-1:111122223333:key/x?public-key=~/x.pem":   {Files: []string{home + "/x.pem"}},
		"branchkey://keys?by=tenant&key=arn:aws:kms:eu-west-1:111122223333:key/x": {Pair: "tenant"},
		"branchkey:~/keys.db?id=x&master=local:~/a&trusted-master=local:b": {
			Files: []string{home + "/keys.db", home + "/a", "b"}, Local: true,
		},
	} {
		k, err := keyurl.Parse(text, services...)
		require.NoError(t, err, text)
		require.Equal(t, k.Service.Scheme, k.URL.Scheme)
		require.ElementsMatch(t, want.Files, k.Files, text)
		require.Equal(t, want.Local, k.Local, text)
		require.Equal(t, want.Pair, k.Pair, text)
	}
}

func TestShownKey(t *testing.T) {
	k, err := keyurl.Parse("awskms://alias/x?region=eu-west-1&grant-tokens=SECRET", services...)
	require.NoError(t, err)
	require.Equal(t, "awskms://alias/x?region=eu-west-1&grant-tokens=xxxxx", k.String())
}

// A file's name is answered with its URL.
func TestNameOfFile(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("dev key", nil, 0o600))
	_, err := keyurl.Parse("dev key", services...)
	require.ErrorContains(t, err, "write local:dev%20key")
	_, err = keyurl.Parse("no key", services...)
	require.ErrorContains(t, err, "unknown scheme")
}

// A text that is no URL of a service may still be one of another program's.
func TestParseURL(t *testing.T) {
	u, err := keyurl.ParseURL("other://x?y=~/z", services...)
	require.NoError(t, err)
	require.Equal(t, &url.URL{Scheme: "other", Host: "x", RawQuery: "y=~/z"}, u)
}
