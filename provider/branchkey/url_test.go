package branchkey_test

import (
	"net/url"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/provider/branchkey"
	"piko.sh/pikokms/provider/local"
)

const someARN = "arn:aws:kms:eu-west-1:111122223333:key/1"

func TestParseURL(t *testing.T) {
	for text, want := range map[string]branchkey.Config{
		"branchkey://keys/tenant-42?key=" + someARN: {
			Table: "keys", BranchKeyID: "tenant-42", TTL: time.Hour,
			KMS: awskms.Config{KeyID: someARN, Region: "eu-west-1"},
		},
		"branchkey://Keys_1.x?by=tenant&ttl=90s&entries=7&logical-name=prod&accounts=111122223333,444455556666&partition=aws-cn&region=cn-north-1&profile=p": {
			Table: "Keys_1.x", Supplier: branchkey.ByPair("tenant"), TTL: 90 * time.Second, Entries: 7, LogicalName: "prod",
			KMS: awskms.Config{Accounts: []string{"111122223333", "444455556666"}, Partition: "aws-cn", Region: "cn-north-1", Profile: "p"},
		},
		"branchkey://keys/a%2Fb?key=" + someARN + "&trusted=" + someARN + "2," + someARN + "3&multi-region=true&endpoint=http://localhost:4566&grant-tokens=a,b": {
			Table: "keys", TableEndpoint: "http://localhost:4566", BranchKeyID: "a/b", TTL: time.Hour,
			KMS: awskms.Config{
				KeyID: someARN, TrustedKeys: []string{someARN + "2", someARN + "3"}, MultiRegion: true, Region: "eu-west-1",
				Endpoint: "http://localhost:4566", GrantTokens: []string{"a", "b"},
			},
		},
		"branchkey://keys/x?key=" + someARN + "&kms-endpoint=https://k&table-endpoint=https://t": {
			Table: "keys", TableEndpoint: "https://t", BranchKeyID: "x", TTL: time.Hour,
			KMS: awskms.Config{KeyID: someARN, Region: "eu-west-1", Endpoint: "https://k"},
		},
		"branchkey:keys.db?id=x&master=local%3Amaster.key&trusted-master=local%3Aold.key%3Fname%3Dold": {
			File: "keys.db", BranchKeyID: "x", TTL: time.Hour, Masters: []local.Config{{KeyFile: "master.key"}, {KeyFile: "old.key", Name: "old"}},
		},
		"branchkey:///srv/my%20keys.db?by=tenant&master=local:master.key": {
			File: "/srv/my keys.db", Supplier: branchkey.ByPair("tenant"), TTL: time.Hour, Masters: []local.Config{{KeyFile: "master.key"}},
		},
	} {
		u, err := url.Parse(text)
		require.NoError(t, err)
		got, err := branchkey.ParseURL(u)
		require.NoError(t, err, text)
		if want.Supplier != nil {
			id, err := got.Supplier(t.Context(), map[string]string{"tenant": "42", "other": "43"})
			require.NoError(t, err)
			require.Equal(t, "42", id)
			_, err = got.Supplier(t.Context(), map[string]string{"other": "43"})
			require.ErrorIs(t, err, provider.ErrKeyNotFound)
			want.Supplier, got.Supplier = nil, nil // functions can't be compared
		}
		require.Equal(t, want, got, text)
	}
	if runtime.GOOS == "windows" {
		u, err := url.Parse("branchkey:///C:/keys.db?master=local:k")
		require.NoError(t, err)
		got, err := branchkey.ParseURL(u)
		require.NoError(t, err)
		require.Equal(t, "C:/keys.db", got.File)
	}
	for _, text := range []string{
		"awskms://keys/x", "branchkey:", "branchkey:///keys.db", "branchkey://keys/x", "branchkey://keys/x?key=" + someARN + "&accounts=111122223333",
		"branchkey://keys/x?key=" + someARN + "&ttl=0s", "branchkey://keys/x?key=" + someARN + "&ttl=1", "branchkey://keys/x?key=" + someARN + "&entries=0",
		"branchkey://keys/x?key=" + someARN + "&multi-region=yes", "branchkey://keys/x?key=" + someARN + "&endpoint=localhost",
		"branchkey://keys/x?key=" + someARN + "&endpoint=http://a&kms-endpoint=http://b", "branchkey://keys/x?key=" + someARN + "&unknown=1",
		"branchkey:keys.db?master=awskms:x", "branchkey:keys.db?master=%25zz", "branchkey:keys.db?master=local:k&key=" + someARN,
		"branchkey://user@keys/x?key=" + someARN, "branchkey://keys/x?key=" + someARN + "#x",
	} {
		u, err := url.Parse(text)
		require.NoError(t, err, text)
		_, err = branchkey.ParseURL(u)
		require.ErrorIs(t, err, provider.ErrInvalidKey, text)
	}
	u, err := url.Parse("branchkey://keys?key=" + someARN)
	require.NoError(t, err)
	c, err := branchkey.ParseURL(u)
	require.NoError(t, err)
	_, err = branchkey.NewProvider(t.Context(), c)
	require.ErrorIs(t, err, provider.ErrInvalidKey)
	require.ErrorContains(t, err, "give a branch key ID")
}
