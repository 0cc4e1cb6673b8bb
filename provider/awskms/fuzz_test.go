package awskms

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

func FuzzParseURL(f *testing.F) {
	for _, text := range []string{
		"awskms://alias/x?region=r&grant-tokens=a,b", "awskms:///arn:aws:kms:eu-west-1:111122223333:key/mrk-1?endpoint=http://h",
		"awskms-discovery:?accounts=111122223333&region=r&partition=aws", "awskms:x", "awskms-discovery://h",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		c, err := ParseURL(u)
		d, discoveryErr := parseDiscoveryURL(u)
		require.True(t, err != nil || discoveryErr != nil, "it means two things")
		if err == nil {
			require.NotEmpty(t, c.KeyID)
		}
		if discoveryErr == nil {
			require.NotEmpty(t, d.Accounts)
		}
	})
}

// Whatever key ARN a header states, KMS is asked only about a key of a trusted account, in the
// Region of the configuration.
func FuzzDiscoveryFilter(f *testing.F) {
	for _, arn := range []string{"arn:aws:kms:eu-west-1:111122223333:key/1", "arn:aws:kms:us-east-1:111122223333:key/mrk-1", "arn:aws:kms:eu-west-1:4:key/1", "arn:aws:s3:::x", ""} {
		f.Add(arn)
	}
	d := discovery{accounts: arns.Accounts{IDs: []string{"111122223333"}, Region: "eu-west-1"}}
	f.Fuzz(func(t *testing.T, stated string) {
		asked, err := d.trusted(header.EncryptedDataKey{ProviderID: providerID, ProviderInfo: []byte(stated)})
		if err != nil {
			require.ErrorIs(t, err, provider.ErrUntrustedKey)
			return
		}
		id, ok := strings.CutPrefix(asked, "arn:aws:kms:eu-west-1:111122223333:key/")
		require.True(t, ok, asked)
		require.NotEmpty(t, id)
		require.True(t, asked == stated || strings.HasPrefix(id, "mrk-"), asked)
	})
}
