package provider_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
)

// TestRedactURL has secrets in each place of a URL where someone may write one.
func TestRedactURL(t *testing.T) {
	for text, want := range map[string]string{
		"awskms://alias/x?region=eu-west-1&endpoint=http://localhost:4566":     "awskms://alias/x?region=eu-west-1&endpoint=http://localhost:4566",
		"awskms:///arn:aws:kms:eu-west-1:111122223333:key/1":                   "awskms:///arn:aws:kms:eu-west-1:111122223333:key/1",
		"branchkey:k.db?id=a&master=local:dev.key?name=x":                      "branchkey:k.db?id=a&master=local:dev.key?name=x",
		"branchkey://t/a?key=arn:aws:kms:eu-west-1:111122223333:key/1":         "branchkey://t/a?key=arn:aws:kms:eu-west-1:111122223333:key/1",
		"awskms://alias/x?endpoint=https://user:SECRET@host/":                  "awskms://alias/x?endpoint=" + url.QueryEscape("https://xxxxx@host/"),
		"awskms://alias/x?endpoint=https%3A%2F%2Fuser%3ASECRET%40host":         "awskms://alias/x?endpoint=" + url.QueryEscape("https://xxxxx@host"),
		"awskms://alias/x?endpoint=https://user:SEC%23RET@host":                "awskms://alias/x?endpoint=xxxxx",
		"awskms://alias/x?endpoint=https://user:SEC#RET@host":                  "awskms://alias/x?endpoint=xxxxx#xxxxx",
		"vault://SECRET@transit/k":                                             "vault://xxxxx@transit/k",
		"vault://transit/k?token=SECRET":                                       "vault://transit/k?token=xxxxx",
		"vault://transit/k?Address=http://a:SECRET@h":                          "vault://transit/k?Address=xxxxx",
		"vault://transit/k?%74oken=SECRET":                                     "vault://transit/k?%74oken=xxxxx",
		"vault://transit/k?region=a;token=SECRET":                              "vault://transit/k?region=xxxxx", // which url.ParseQuery refuses
		"s3://bucket/p/?endpoint=http://a:SECRET@h&secret_key=SECRET&region=x": "s3://bucket/p/?endpoint=" + url.QueryEscape("http://xxxxx@h") + "&secret_key=xxxxx&region=x",
		"vault://a:SECRET@%zz":                                                 "xxxxx",
	} {
		require.Equal(t, want, provider.RedactURL(text))
	}
}

func TestURLParameters(t *testing.T) {
	for text, reason := range map[string]string{
		"awskms://alias/x?region=a&profile=b":   "",
		"awskms://alias/x":                      "",
		"awskms://me@alias/x?region=a":          "it has user information",
		"awskms://alias/x?region=a#b":           "it has a fragment; write # as %23",
		"awskms://me@alias/x#b":                 "it has user information",
		"awskms://alias/x?Region=a":             `unknown parameter "Region"; known are region, profile, endpoint`,
		"awskms://alias/x?region=a&region=b":    `parameter "region" comes twice`,
		"awskms://alias/x?region=":              `parameter "region" is empty`,
		"awskms://alias/x?endpoint=https://h/p": "",
		"awskms://alias/x?endpoint=h:80":        `parameter "endpoint" is not an http or https URL`,
		"awskms://alias/x?endpoint=http:///p":   `parameter "endpoint" is not an http or https URL`,
		"awskms://alias/x?endpoint=http://a@h":  `parameter "endpoint" is not an http or https URL, or has user information`,
		"awskms://alias/x?region=a;profile=b":   "invalid semicolon separator in query",
		"awskms://me@alias/x?region=a;profile":  "invalid semicolon separator in query",
	} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		query, err := provider.URLParameters(u, "region", "profile", "endpoint")
		if reason == "" {
			require.NoError(t, err, text)
			require.Equal(t, u.Query(), query)
			continue
		}
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
		require.ErrorContains(t, err, reason)
		require.ErrorContains(t, err, provider.RedactURL(text))
		require.Nil(t, query)
	}
}

func TestRedactURLKeepsParametersWithoutValues(t *testing.T) {
	require.Equal(t, "s3://bucket?use_path_style", provider.RedactURL("s3://bucket?use_path_style"))
	require.Equal(t, "s3://bucket?a%3BSECRET=xxxxx", provider.RedactURL("s3://bucket?a%3BSECRET"))
	require.Equal(t, "s3://bucket?a;SECRET=xxxxx", provider.RedactURL("s3://bucket?a;SECRET"))
}
