package admin

import (
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// clientOf returns a client of the KMS at a URL, which makes each call once.
func clientOf(t testing.TB, url string) *kms.Client {
	t.Helper()
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return kms.New(kms.Options{
		Region: kmstest.Region, BaseEndpoint: &url, RetryMaxAttempts: 1, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(emulator.Credentials, emulator.Credentials, ""),
	})
}

// permissions returns whether an examination found each action allowed, denied or unknown.
func permissions(e *examination) map[string]string {
	said := make(map[string]string)
	for _, p := range e.permissions {
		switch {
		case p.err == nil:
			said[p.action] = "allowed"
		case p.isDenied():
			said[p.action] = "denied"
		default:
			said[p.action] = "unknown"
		}
	}
	return said
}

func TestExamineSymmetricKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Alias: "alias/store", MultiRegion: true})
	operations := map[string]string{
		"DescribeKey": "kms:DescribeKey", "GenerateDataKey": "kms:GenerateDataKey", "Encrypt": "kms:Encrypt",
		"Decrypt": "kms:Decrypt", "ReEncrypt": "kms:ReEncrypt*", "GetKeyRotationStatus": "kms:GetKeyRotationStatus",
	}
	want := make(map[string]string)
	for _, action := range operations {
		want[action] = "allowed"
	}
	pairs := map[string]string{"tenant": "42"}
	for _, keyID := range []string{"alias/store", key.ID, key.ARN} {
		c := awskms.Config{KeyID: keyID, Client: clientOf(t, server.URL)}
		server.Reset()
		e, err := examine(t.Context(), c, pairs)
		require.NoError(t, err)
		require.Equal(t, key.ARN, e.arn)
		require.Equal(t, []string{"Enabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "AWS_KMS"}, []string{string(e.key.KeyState), string(e.key.KeySpec), string(e.key.KeyUsage), string(e.key.Origin)})
		require.True(t, *e.key.MultiRegion)
		require.NoError(t, e.usable)
		require.False(t, e.rotation.KeyRotationEnabled)
		require.Equal(t, want, permissions(e))
		for _, r := range server.Requests() {
			if r.Operation != "DescribeKey" && r.Operation != "GetKeyRotationStatus" {
				require.True(t, r.DryRun, r.Operation)
			}
			if r.Operation == "GenerateDataKey" || r.Operation == "Decrypt" {
				require.Equal(t, pairs, r.EncryptionContext)
			}
		}

		for operation, action := range operations {
			remove := server.Inject(kmstest.Fault{Operation: operation, Do: kmstest.Deny()})
			e, err := examine(t.Context(), c, nil)
			remove()
			require.NoError(t, err)
			said := permissions(e)
			require.Equal(t, "denied", said[action])
			delete(said, action)
			for other, verdict := range said {
				require.Equal(t, "allowed", verdict, "%s while %s is denied", other, action)
			}
			require.Equal(t, operation == "DescribeKey" && keyID != key.ARN, e.arn == "")
		}
	}

	c := awskms.Config{KeyID: key.ARN, Client: clientOf(t, server.URL)}
	server.SetState(key.ARN, "Disabled")
	e, err := examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.ErrorIs(t, e.usable, provider.ErrKeyDisabled)
	require.Equal(t, "unknown", permissions(e)["kms:Decrypt"])

	server.DeleteKey(key.ARN)
	_, err = examine(t.Context(), c, nil)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	server.Close()
	_, err = examine(t.Context(), c, nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
}

func TestExamineRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	c := awskms.Config{KeyID: key.ARN, Client: clientOf(t, server.URL)}
	e, err := examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"kms:DescribeKey": "allowed", "kms:GetPublicKey": "allowed", "kms:Decrypt": "allowed",
	}, permissions(e))
	server.Inject(kmstest.Fault{Operation: "Decrypt", Do: kmstest.Deny()})
	e, err = examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, "denied", permissions(e)["kms:Decrypt"])
}

func TestExamineECKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "ECC_NIST_P521"})
	c := awskms.Config{KeyID: key.ARN, Client: clientOf(t, server.URL)}
	e, err := examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.NoError(t, e.usable)
	require.Equal(t, map[string]string{
		"kms:DescribeKey": "allowed", "kms:GetPublicKey": "allowed", "kms:DeriveSharedSecret": "allowed",
	}, permissions(e))
	for _, r := range server.Requests() {
		require.Equal(t, r.Operation == "DeriveSharedSecret", r.DryRun)
	}
	server.Inject(kmstest.Fault{Operation: "DeriveSharedSecret", Do: kmstest.Error("AccessDeniedException", "not allowed")})
	e, err = examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, "denied", permissions(e)["kms:DeriveSharedSecret"])
}

// TestExamineWithoutDryRuns asks emulators that carry out a dry run, and that look at its
// ciphertext.
func TestExamineWithoutDryRuns(t *testing.T) {
	for name, start := range map[string]func(testing.TB) string{"LocalStack": emulator.LocalStack, "moto": emulator.Moto} {
		t.Run(name, func(t *testing.T) {
			client := clientOf(t, start(t))
			key, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecSymmetricDefault})
			require.NoError(t, err)
			e, err := examine(t.Context(), awskms.Config{KeyID: *key.KeyMetadata.KeyId, Client: client}, map[string]string{"tenant": "42"})
			require.NoError(t, err)
			require.Equal(t, aws.ToString(key.KeyMetadata.Arn), e.arn)
			require.NoError(t, e.usable)
			require.NotNil(t, e.rotation)
			for _, p := range e.permissions {
				require.NoError(t, p.err, p.action)
			}
		})
	}
}
