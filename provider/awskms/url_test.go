package awskms

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

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
		"awskms:///" + key:                                           {KeyID: key, Region: "eu-west-1"},
		"awskms:///" + key + "?region=eu-west-1":                     {KeyID: key, Region: "eu-west-1"},
		"awskms:///arn:aws-cn:kms:cn-north-1:1:key/x":                {KeyID: "arn:aws-cn:kms:cn-north-1:1:key/x", Region: "cn-north-1"},
		"awskms:///arn:aws:kms:eu-west-1:1:alias/a/b":                {KeyID: "arn:aws:kms:eu-west-1:1:alias/a/b", Region: "eu-west-1"},
		"awskms://k?region=r&endpoint=http://[::1]:80":               {KeyID: "k", Region: "r", Endpoint: "http://[::1]:80"},
		"awskms://k?endpoint=https%3A%2F%2Fvpce.example%2F&region=r": {KeyID: "k", Region: "r", Endpoint: "https://vpce.example/"},
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
		"awskms://alias/x":                                         "it names no Region; add ?region=REGION",
		"awskms://1234abcd":                                        "it names no Region",
		"awskms://alias/x?region=":                                 `parameter "region" is empty`,
		"awskms://alias/x?region=a&region=b":                       `parameter "region" comes twice`,
		"awskms://alias/x?region=r&profile=p":                      `unknown parameter "profile"; known are endpoint, region`,
		"awskms://alias/x?region=%zz":                              `invalid URL escape "%zz"`,
		"awskms://alias/x?region=r&endpoint=localhost":             `the endpoint "localhost" is not an http or https URL`,
		"awskms://alias/x?region=r&endpoint=file:///x":             "is not an http or https URL",
		"awskms://alias/x?region=r&endpoint=http://%7f":            "is not an http or https URL",
		"awskms:///arn:aws:s3:eu-west-1:1:key/x":                   "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms:eu-west-1:1:grant/x":                "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms?region=r":                           "is not the ARN of a KMS key or alias",
		"awskms:///arn:aws:kms:eu-west-1:1:key/x?region=us-east-1": "is in Region eu-west-1, the configured Region is us-east-1",
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		_, err = ParseURL(u)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret")
		_, err = OpenURL(t.Context(), u)
		require.ErrorContains(t, err, want, text)
	}
}
