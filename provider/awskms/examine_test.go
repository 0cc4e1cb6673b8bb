package awskms_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/internal/emulator"
	"piko.sh/pikokms/kmstest"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// permissions returns what an examination says of each action.
func permissions(e *awskms.Examination) map[string]string {
	said := make(map[string]string)
	for _, p := range e.Permissions {
		switch {
		case p.Allowed:
			said[p.Action] = "allowed"
		case p.IsDenied():
			said[p.Action] = "denied"
		default:
			said[p.Action] = "unknown"
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
		c := awskms.Config{KeyID: keyID, Client: newClient(t, server.URL, 1)}
		server.Reset()
		e, err := awskms.Examine(t.Context(), c, pairs)
		require.NoError(t, err)
		require.Equal(t, key.ARN, e.ARN)
		require.Equal(t, []string{"Enabled", "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "AWS_KMS"}, []string{e.State, e.Spec, e.Usage, e.Origin})
		require.True(t, e.MultiRegion)
		require.NoError(t, e.Usable)
		require.Equal(t, &awskms.Rotation{}, e.Rotation)
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
			e, err := awskms.Examine(t.Context(), c, nil)
			remove()
			require.NoError(t, err)
			said := permissions(e)
			require.Equal(t, "denied", said[action])
			delete(said, action)
			for other, verdict := range said {
				require.Equal(t, "allowed", verdict, "%s while %s is denied", other, action)
			}
			require.Equal(t, operation == "DescribeKey" && keyID != key.ARN, e.ARN == "")
		}
	}

	c := awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)}
	server.SetState(key.ARN, "Disabled")
	e, err := awskms.Examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.ErrorIs(t, e.Usable, provider.ErrKeyDisabled)
	require.Equal(t, "unknown", permissions(e)["kms:Decrypt"])

	server.DeleteKey(key.ARN)
	_, err = awskms.Examine(t.Context(), c, nil)
	require.ErrorIs(t, err, provider.ErrKeyNotFound)
	server.Close()
	_, err = awskms.Examine(t.Context(), c, nil)
	require.ErrorIs(t, err, provider.ErrProviderUnavailable)
}

func TestExamineRSAKey(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	c := awskms.Config{KeyID: key.ARN, Client: newClient(t, server.URL, 1)}
	e, err := awskms.Examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"kms:DescribeKey": "allowed", "kms:GetPublicKey": "allowed", "kms:Decrypt": "allowed",
	}, permissions(e))
	server.Inject(kmstest.Fault{Operation: "Decrypt", Do: kmstest.Deny()})
	e, err = awskms.Examine(t.Context(), c, nil)
	require.NoError(t, err)
	require.Equal(t, "denied", permissions(e)["kms:Decrypt"])
}

// TestExamineWithoutDryRuns asks emulators that carry out a dry run, and that look at its
// ciphertext.
func TestExamineWithoutDryRuns(t *testing.T) {
	for name, start := range map[string]func(testing.TB) string{"LocalStack": emulator.LocalStack, "moto": emulator.Moto} {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, start(t), 1)
			key, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecSymmetricDefault})
			require.NoError(t, err)
			e, err := awskms.Examine(t.Context(), awskms.Config{KeyID: *key.KeyMetadata.KeyId, Client: client}, map[string]string{"tenant": "42"})
			require.NoError(t, err)
			require.Equal(t, aws.ToString(key.KeyMetadata.Arn), e.ARN)
			require.NoError(t, e.Usable)
			require.NotNil(t, e.Rotation)
			for _, p := range e.Permissions {
				require.True(t, p.Allowed, "%s: %v", p.Action, p.Err)
			}
		})
	}
}
