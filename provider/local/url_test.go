package local

import (
	"crypto"
	"io/fs"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]Config{
		"local:///keys/a.key":                     {KeyFile: "/keys/a.key"},
		"local:/keys/a.key":                       {KeyFile: "/keys/a.key"},
		"local:a.key":                             {KeyFile: "a.key"},
		"local:./keys/a.key":                      {KeyFile: "./keys/a.key"},
		"local:../a.key?name=n":                   {KeyFile: "../a.key", Name: "n"},
		"local:my%20keys/100%25":                  {KeyFile: "my keys/100%"},
		"local:///my%20keys/a%23b%3Fc":            {KeyFile: "/my keys/a#b?c"},
		"local:C:/keys/a.key":                     {KeyFile: "C:/keys/a.key"},
		"local:///k?namespace=N&name=%C3%BC+1":    {KeyFile: "/k", Namespace: "N", Name: "ü 1"},
		"local:k.pem?hash=sha1":                   {KeyFile: "k.pem", Hash: crypto.SHA1},
		"local:k.pem?padding=pkcs1":               {KeyFile: "k.pem", PKCS1v15: true},
		"local:k.pem?padding=oaep-mgf1":           {KeyFile: "k.pem", Hash: crypto.SHA256},
		"local:k?hash=sha512&padding=oaep-mgf1":   {KeyFile: "k", Hash: crypto.SHA512},
		"local:///k?name=aws%26x&namespace=a%3Db": {KeyFile: "/k", Namespace: "a=b", Name: "aws&x"},
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		got, err := ParseURL(u)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestParseURLRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"file:///keys/a.key":               `the scheme is "file", not "local"`,
		"local:":                           "it names no key file",
		"local:?name=x":                    "it names no key file",
		"local://a.key":                    `"a.key" stands where a host would`,
		"local://localhost/keys/a.key":     `"localhost" stands where a host would`,
		"local://u:secret@/keys/a.key":     "it has user information",
		"local:///k#part":                  "it has a fragment",
		"local:k#part":                     "it has a fragment",
		"local:///k?region=eu-west-1":      `unknown parameter "region"; known are hash, name, namespace, padding, peer`,
		"local:///k?Name=x":                `unknown parameter "Name"`,
		"local:///k?name=x&name=y":         `parameter "name" comes twice`,
		"local:///k?name=":                 `parameter "name" is empty`,
		"local:///k?namespace":             `parameter "namespace" is empty`,
		"local:///k?name=%zz":              `invalid URL escape "%zz"`,
		"local:///k?name=x;namespace=y":    "semicolon",
		"local:my%2key":                    `invalid URL escape "%2k"`,
		"local:k?name=x&name=x&namespac=x": "parameter",
		"local:k?padding=oaep":             `padding "oaep"; known are oaep-mgf1, pkcs1`,
		"local:k?hash=md5":                 `hash "md5"; known are sha1, sha256, sha384, sha512`,
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		_, err = ParseURL(u)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestKeyOfAURL(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, Generate("a key"))
	open := func(text string) (provider.Provider, error) {
		u, err := url.Parse(text)
		require.NoError(t, err)
		c, err := ParseURL(u)
		if err != nil {
			return nil, err
		}
		return NewProvider(c)
	}
	p, err := open("local:a%20key?name=n")
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, "n", p.KeyID())
	require.Equal(t, defaultNamespace, p.(*keyring).key.id().namespace)

	_, err = open("local:other?name=n")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = open("awskms:other?name=n")
	require.ErrorIs(t, err, provider.ErrInvalidKey)
}

func TestTrimDrive(t *testing.T) {
	require.Equal(t, "C:/keys/a", trimDrive("/C:/keys/a", true))
	require.Equal(t, "z:", trimDrive("/z:", true))
	require.Equal(t, "/C:/keys/a", trimDrive("/C:/keys/a", false))
	for _, path := range []string{"", "/", "/C", "/1:/x", "/keys/a", "//server/share"} {
		require.Equal(t, path, trimDrive(path, true))
	}
}
