package awskms

import (
	"crypto"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

func TestParseURL(t *testing.T) {
	const (
		id  = "1234abcd-12ab-34cd-56ef-1234567890ab"
		key = "arn:aws:kms:eu-west-1:111122223333:key/" + id
	)
	for text, want := range map[string]Config{
		"awskms://alias/store?region=eu-west-1":                      {KeyID: "alias/store", Region: "eu-west-1"},
		"awskms:///alias/store?region=eu-west-1":                     {KeyID: "alias/store", Region: "eu-west-1"},
		"awskms://alias/Store/a-b_c?region=us-east-1":                {KeyID: "alias/Store/a-b_c", Region: "us-east-1"},
		"awskms://" + id + "?region=eu-west-1":                       {KeyID: id, Region: "eu-west-1"},
		"awskms://mrk-1234ABCD?region=eu-west-1":                     {KeyID: "mrk-1234ABCD", Region: "eu-west-1"},
		"awskms:///" + key:                                           {KeyID: key},
		"awskms:///" + key + "?region=eu-west-1":                     {KeyID: key, Region: "eu-west-1"},
		"awskms:///arn:aws-cn:kms:cn-north-1:1:key/x":                {KeyID: "arn:aws-cn:kms:cn-north-1:1:key/x"},
		"awskms:///arn:aws:kms:eu-west-1:1:alias/a/b":                {KeyID: "arn:aws:kms:eu-west-1:1:alias/a/b"},
		"awskms://k?region=r&endpoint=http://[::1]:80":               {KeyID: "k", Region: "r", Endpoint: "http://[::1]:80"},
		"awskms://k?endpoint=https%3A%2F%2Fvpce.example%2F&region=r": {KeyID: "k", Region: "r", Endpoint: "https://vpce.example/"},
		"awskms://k?region=r&grant-tokens=a,b":                       {KeyID: "k", Region: "r", GrantTokens: []string{"a", "b"}},
		"awskms://alias/x":                                           {KeyID: "alias/x"},
		"awskms://alias/x?profile=work":                              {KeyID: "alias/x", Profile: "work"},
		"awskms:///" + key + "?public-key=/etc/store.pem&hash=sha1":  {KeyID: key, PublicKeyFile: "/etc/store.pem", Hash: crypto.SHA1},
		"awskms:///" + key + "?hash=sha256":                          {KeyID: key, Hash: crypto.SHA256},
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
		"kms://alias/x?region=r":                                   `the scheme is "kms", not "awskms"`,
		"awskms:alias/x?region=r":                                  "slashes are missing",
		"awskms://u:secret@alias/x?region=r":                       "it has user information",
		"awskms://alias/x?region=r#part":                           "it has a fragment",
		"awskms://?region=r":                                       "it names no key",
		"awskms:///?region=r":                                      "it names no key",
		"awskms://alias/?region=r":                                 "it names no alias",
		"awskms://keys/x?region=r":                                 `"keys/x" is no key ID`,
		"awskms://alias/x?hash=md5":                                `hash "md5"; known are sha1, sha256`,
		"awskms://alias/x?public-key=k.pem":                        "KeyID must be a key ARN",
		"awskms://alias/x?region=":                                 `parameter "region" is empty`,
		"awskms://alias/x?region=a&region=b":                       `parameter "region" comes twice`,
		"awskms://alias/x?region=r&profil=p":                       `unknown parameter "profil"; known are endpoint, grant-tokens, hash, peer, profile, public-key, region`,
		"awskms://alias/x?region=%zz":                              `invalid URL escape "%zz"`,
		"awskms://alias/x?region=r&endpoint=localhost":             `parameter "endpoint" is not an http or https URL`,
		"awskms://alias/x?region=r&endpoint=file:///x":             "is not an http or https URL",
		"awskms://alias/x?region=r&endpoint=http://%7f":            "is not an http or https URL",
		"awskms://k?region=r&grant-tokens=1,2,3,4,5,6,7,8,9,10,11": "11 grant tokens, KMS takes 10",
		"awskms:///arn:aws:s3:eu-west-1:1:key/x":                   "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms:eu-west-1:1:grant/x":                "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms?region=r":                           "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms:eu-west-1:1:key/x?region=us-east-1": "the ARN is in Region eu-west-1, the parameter says us-east-1",
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		_, err = ParseURL(u)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestParseDiscoveryURL(t *testing.T) {
	for text, want := range map[string]Config{
		"awskms-discovery:?accounts=111122223333&region=eu-west-1": {Accounts: []string{"111122223333"}, Region: "eu-west-1"},
		"awskms-discovery:?accounts=111122223333":                  {Accounts: []string{"111122223333"}},
		"awskms-discovery:?accounts=111122223333&profile=work":     {Accounts: []string{"111122223333"}, Profile: "work"},
		"awskms-discovery:///?accounts=111122223333,444455556666&partition=aws-cn&region=r&endpoint=http://h&grant-tokens=g": {
			Accounts: []string{"111122223333", "444455556666"}, Partition: "aws-cn", Region: "r", Endpoint: "http://h", GrantTokens: []string{"g"},
		},
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		got, err := parseDiscoveryURL(u)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"awskms:?accounts=111122223333&region=r":                         `the scheme is "awskms"`,
		"awskms-discovery:x?accounts=111122223333&region=r":              "discovery names no key",
		"awskms-discovery://alias/x?accounts=111122223333&region=r":      "discovery names no key",
		"awskms-discovery:?region=r":                                     "needs the accounts",
		"awskms-discovery:?accounts=11112222333,1&region=r":              "is not 12 digits",
		"awskms-discovery:?accounts=11112222333x&region=r":               "is not 12 digits",
		"awskms-discovery:?accounts=111122223333,&region=r":              "is not 12 digits",
		"awskms-discovery:?accounts=111122223333&profile=":               "is empty",
		"awskms-discovery:?accounts=111122223333&region=r&endpoint=h":    "not an http or https URL",
		"awskms-discovery:?account=111122223333&region=r":                `unknown parameter "account"`,
		"awskms-discovery:?accounts=111122223333&region=r&grant-tokens=": "is empty",
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		_, err = parseDiscoveryURL(u)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestDiscoveryFilter(t *testing.T) {
	d := discovery{accounts: arns.Accounts{IDs: []string{"111122223333", "444455556666"}, Region: "eu-west-1"}}
	const own = "arn:aws:kms:eu-west-1:111122223333:key/1234"
	for stored, asked := range map[string]string{
		own: own,
		"arn:aws:kms:eu-west-1:444455556666:key/1234":        "arn:aws:kms:eu-west-1:444455556666:key/1234",
		"arn:aws:kms:us-east-1:111122223333:key/mrk-1":       "arn:aws:kms:eu-west-1:111122223333:key/mrk-1",
		"arn:aws:kms:us-east-1:111122223333:key/1234":        "",
		"arn:aws:kms:eu-west-1:111122223334:key/1234":        "",
		"arn:aws-us-gov:kms:eu-west-1:111122223333:key/1234": "",
		"arn:aws:kms:eu-west-1:111122223333:alias/x":         "",
		"arn:aws:kms:eu-west-1:111122223333:key/1\x1b[2J":    "",
		"arn:aws:kms:eu-west-1:111122223333:key/1/2":         "",
		"arn:aws:s3:eu-west-1:111122223333:key/1234":         "",
		"arn:aws:kms:evil.example/:111122223333:key/mrk-1":   "arn:aws:kms:eu-west-1:111122223333:key/mrk-1",
		"1234": "",
		"":     "",
	} {
		got, err := d.trusted(header.EncryptedDataKey{ProviderID: "aws-kms", ProviderInfo: []byte(stored)})
		if require.Equal(t, asked, got, stored); asked == "" {
			require.ErrorIs(t, err, provider.ErrUntrustedKey)
		} else {
			require.NoError(t, err)
		}
	}
	_, err := d.trusted(header.EncryptedDataKey{ProviderID: "piko", ProviderInfo: []byte(own)})
	require.ErrorIs(t, err, provider.ErrUntrustedKey)
}
