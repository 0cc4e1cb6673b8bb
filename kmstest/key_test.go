package kmstest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/kmstest"
)

func TestKeyIsWhatItsFieldsSay(t *testing.T) {
	server := kmstest.NewServer(t)
	require.Equal(t, kmstest.Key{
		ID: unknownKeyID, Account: "444455556666", Region: "cn-north-1", Alias: "alias/x", Description: "ours",
		Spec: "RSA_2048", Usage: "SIGN_VERIFY", State: "Disabled",
		ARN: "arn:aws-cn:kms:cn-north-1:444455556666:key/" + unknownKeyID,
	}, server.CreateKey(kmstest.Key{
		ID: unknownKeyID, Account: "444455556666", Region: "cn-north-1", Alias: "alias/x", Description: "ours",
		Spec: "RSA_2048", Usage: "SIGN_VERIFY", State: "Disabled",
	}))
	key := server.CreateKey(kmstest.Key{})
	require.Equal(t, kmstest.Key{
		ID: key.ID, Account: kmstest.Account, Region: kmstest.Region,
		Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT", State: "Enabled",
		ARN: "arn:aws:kms:eu-west-1:111122223333:key/" + key.ID,
	}, key)

	client := newClient(t, server, kmstest.Region)
	out, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.NotNil(t, out.KeyMetadata.CreationDate)
	require.Len(t, *out.KeyMetadata.CurrentKeyMaterialId, 64)

	for name, wrong := range map[string]kmstest.Key{
		"spec":  {Spec: "RSA_1024"},
		"usage": {Usage: "SIGN_VERIFY"},
		"alias": {Alias: "documents"},
		"aws":   {Alias: "alias/aws/s3"},
		"twice": {ID: key.ID},
	} {
		require.Panics(t, func() { server.CreateKey(wrong) }, name)
	}
	require.Panics(t, func() { server.SetState("arn:aws:kms:eu-west-1:111122223333:key/none", "Enabled") })
	require.Contains(t, server.CreateKey(kmstest.Key{Region: "us-gov-west-1"}).ARN, "arn:aws-us-gov:kms:us-gov-west-1:")
	require.Panics(t, func() { server.Replicate(key.ARN, "us-east-1") })
}

func TestEverySpecIsDescribed(t *testing.T) {
	server := kmstest.NewServer(t)
	client := newClient(t, server, kmstest.Region)
	for spec, want := range map[string]string{
		"SYMMETRIC_DEFAULT": "ENCRYPT_DECRYPT [SYMMETRIC_DEFAULT] [] [] []",
		"RSA_3072":          "ENCRYPT_DECRYPT [RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256] [] [] []",
		"ECC_NIST_P384":     "KEY_AGREEMENT [] [] [ECDH] []",
		"ECC_SECG_P256K1":   "SIGN_VERIFY [] [ECDSA_SHA_256] [] []",
		"HMAC_384":          "GENERATE_VERIFY_MAC [] [] [] [HMAC_SHA_384]",
	} {
		key := server.CreateKey(kmstest.Key{Spec: spec})
		out, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
		require.NoError(t, err)
		m := out.KeyMetadata
		require.Equal(t, want, fmt.Sprintln(m.KeyUsage, m.EncryptionAlgorithms, m.SigningAlgorithms, m.KeyAgreementAlgorithms, m.MacAlgorithms)[:len(want)])
		require.EqualValues(t, spec, m.KeySpec)
	}
}

// The states that no call brings about, by AWS's table.
func TestStatesThatNoCallBringsAbout(t *testing.T) {
	server := kmstest.NewServer(t)
	client := newClient(t, server, kmstest.Region)
	for state, wants := range map[string]map[string]string{
		"Creating": {
			"CancelKeyDeletion": badState, "CreateAlias": badState, "Decrypt": badState, "DescribeKey": "ok", "DisableKey": badState,
			"EnableKey": badState, "EnableKeyRotation": badState, "Encrypt": badState, "GenerateDataKey": badState,
			"ReEncrypt to": badState, "RotateKeyOnDemand": badState, "ReplicateKey": badState, "ScheduleKeyDeletion": badState,
		},
		"Updating": {
			"CancelKeyDeletion": badState, "Decrypt": "ok", "DescribeKey": "ok", "DisableKey": badState, "EnableKey": badState,
			"EnableKeyRotation": badState, "Encrypt": "ok", "GenerateDataKey": "ok", "ReEncrypt from": "ok",
			"RotateKeyOnDemand": badState, "ReplicateKey": badState, "ScheduleKeyDeletion": badState,
		},
		"Unavailable": {
			"CancelKeyDeletion": badState, "CreateAlias": "ok", "Decrypt": badState, "DescribeKey": "ok", "DisableKey": "ok",
			"EnableKey": "ok", "EnableKeyRotation": unsupported, "Encrypt": badState, "GenerateDataKey": badState,
			"GetKeyRotationStatus": unsupported, "ReEncrypt to": badState, "RotateKeyOnDemand": unsupported, "ScheduleKeyDeletion": "ok",
		},
		"PendingReplicaDeletion": {
			"CancelKeyDeletion": "ok", "Decrypt": badState, "DescribeKey": "ok", "EnableKey": badState, "Encrypt": badState,
			"GenerateDataKey": badState, "RotateKeyOnDemand": badState, "ScheduleKeyDeletion": badState,
		},
	} {
		for operation, want := range wants {
			t.Run(operation+" of a key that is "+string(state), func(t *testing.T) {
				e := &emulated{t, server.URL, client}
				s := subject{e, e.key(kms.CreateKeyInput{MultiRegion: aws.Bool(true)}), nil}
				s.blob = e.sealed(s.key, nil)
				server.SetState(*s.key.Arn, state)
				require.Equal(t, want, outcome(keyUses[operation](s, t.Context())))
			})
		}
	}
}

func TestUnavailableKeyStaysSo(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{State: "Unavailable"})
	client := newClient(t, server, key.Region)
	_, err := client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	out, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Equal(t, types.KeyStateUnavailable, out.KeyMetadata.KeyState)
	require.Equal(t, types.OriginTypeAwsCloudhsm, out.KeyMetadata.Origin)
}

func TestRotatedKeyReadsOldCiphertexts(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{MultiRegion: true})
	replica := server.Replicate(key.ARN, "us-east-1")
	here, there := newClient(t, server, key.Region), newClient(t, server, replica.Region)
	seen := map[string]bool{}
	for range 3 {
		out, err := here.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: &key.ID, KeySpec: types.DataKeySpecAes128})
		require.NoError(t, err)
		seen[*out.KeyMaterialId] = true
		_, err = here.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &key.ID})
		require.NoError(t, err)
		got, err := there.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
		require.NoError(t, err)
		require.Equal(t, out.Plaintext, got.Plaintext)
		require.Equal(t, *out.KeyMaterialId, *got.KeyMaterialId)
		require.Equal(t, replica.ARN, *got.KeyId)
	}
	require.Len(t, seen, 3)

	_, err := there.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &replica.ID})
	require.Equal(t, unsupported, code(err), "a replica rotates with its primary key")
	_, err = there.ReplicateKey(t.Context(), &kms.ReplicateKeyInput{KeyId: &replica.ID, ReplicaRegion: aws.String("us-west-2")})
	require.Equal(t, unsupported, code(err))

	single := server.CreateKey(kmstest.Key{})
	for range 25 {
		_, err = here.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &single.ID})
		require.NoError(t, err)
	}
	_, err = here.RotateKeyOnDemand(t.Context(), &kms.RotateKeyOnDemandInput{KeyId: &single.ID})
	require.Equal(t, "LimitExceededException", code(err))
}

func TestDeletedKeyIsGone(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{MultiRegion: true, Alias: "alias/x"})
	replica := server.Replicate(key.ARN, "us-east-1")
	client := newClient(t, server, key.Region)
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ID, Plaintext: []byte("x")})
	require.NoError(t, err)
	_, err = client.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &key.ID})
	require.NoError(t, err)
	described, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Equal(t, types.KeyStatePendingReplicaDeletion, described.KeyMetadata.KeyState)
	require.EqualValues(t, 30, *described.KeyMetadata.PendingDeletionWindowInDays)

	server.DeleteKey(replica.ARN)
	described, err = client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key.ID})
	require.NoError(t, err)
	require.Equal(t, types.KeyStatePendingDeletion, described.KeyMetadata.KeyState)
	require.NotNil(t, described.KeyMetadata.DeletionDate)

	server.DeleteKey(key.ARN)
	for _, name := range []string{key.ID, key.ARN, "alias/x"} {
		_, err = client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &name})
		require.Equal(t, "NotFoundException", code(err), name)
	}
	_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
	require.Equal(t, "AccessDeniedException", code(err))
}

func TestCiphertextsOfAnotherServer(t *testing.T) {
	var blobs [][]byte
	for range 2 {
		server := kmstest.NewServer(t)
		key := server.CreateKey(kmstest.Key{ID: unknownKeyID})
		client := newClient(t, server, key.Region)
		out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ID, Plaintext: []byte("x")})
		require.NoError(t, err)
		blobs = append(blobs, out.CiphertextBlob)
		_, err = client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blobs[0]})
		if len(blobs) == 1 {
			require.NoError(t, err)
		} else {
			require.Equal(t, "InvalidCiphertextException", code(err))
		}
	}
}

// Every byte of a ciphertext counts.
func TestTamperedCiphertexts(t *testing.T) {
	server := kmstest.NewServer(t)
	key := server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ID, Plaintext: []byte("x"), EncryptionContext: pairs})
	require.NoError(t, err)
	for _, keyID := range []*string{nil, &key.ID} {
		for at := range out.CiphertextBlob {
			out.CiphertextBlob[at] ^= 1
			_, err := client.Decrypt(t.Context(), &kms.DecryptInput{KeyId: keyID, CiphertextBlob: out.CiphertextBlob, EncryptionContext: pairs})
			require.NotEmpty(t, code(err), "byte %d", at)
			_, err = client.Decrypt(t.Context(), &kms.DecryptInput{KeyId: keyID, CiphertextBlob: out.CiphertextBlob[:at], EncryptionContext: pairs})
			require.Error(t, err, "%d bytes", at)
			out.CiphertextBlob[at] ^= 1
		}
	}
}

func TestRSAKeys(t *testing.T) {
	server := kmstest.NewServer(t)
	key, symmetric := server.CreateKey(kmstest.Key{Spec: "RSA_2048"}), server.CreateKey(kmstest.Key{})
	client := newClient(t, server, key.Region)
	oaep := types.EncryptionAlgorithmSpecRsaesOaepSha256
	out, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key.ID, Plaintext: []byte("x"), EncryptionAlgorithm: oaep})
	require.NoError(t, err)

	// Into a symmetric key and back.
	moved, err := client.ReEncrypt(t.Context(), &kms.ReEncryptInput{
		CiphertextBlob: out.CiphertextBlob, SourceKeyId: &key.ID, SourceEncryptionAlgorithm: oaep, DestinationKeyId: &symmetric.ID,
	})
	require.NoError(t, err)
	back, err := client.ReEncrypt(t.Context(), &kms.ReEncryptInput{
		CiphertextBlob: moved.CiphertextBlob, DestinationKeyId: &key.ID, DestinationEncryptionAlgorithm: oaep,
	})
	require.NoError(t, err)
	got, err := client.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: back.CiphertextBlob, KeyId: &key.ID, EncryptionAlgorithm: oaep})
	require.NoError(t, err)
	require.Equal(t, "x", string(got.Plaintext))

	for name, c := range map[string]struct {
		in   kms.DecryptInput
		want string
	}{
		"no key":            {kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, EncryptionAlgorithm: oaep}, "ValidationException"},
		"context":           {kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, KeyId: &key.ID, EncryptionAlgorithm: oaep, EncryptionContext: pairs}, "ValidationException"},
		"other hash":        {kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, KeyId: &key.ID, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha1}, "InvalidCiphertextException"},
		"unknown algorithm": {kms.DecryptInput{CiphertextBlob: out.CiphertextBlob, KeyId: &key.ID, EncryptionAlgorithm: "SM2PKE"}, "InvalidKeyUsageException"},
	} {
		_, err := client.Decrypt(t.Context(), &c.in)
		require.Equal(t, c.want, code(err), name)
	}
	_, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: moved.CiphertextBlob, DestinationKeyId: &key.ID})
	require.Equal(t, "InvalidKeyUsageException", code(err))
	_, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: moved.CiphertextBlob, DestinationKeyId: aws.String("alias/nobody")})
	require.Equal(t, "NotFoundException", code(err))
	large, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &symmetric.ID, Plaintext: []byte(strings.Repeat("x", 191))})
	require.NoError(t, err)
	_, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{CiphertextBlob: large.CiphertextBlob, DestinationKeyId: &key.ID, DestinationEncryptionAlgorithm: oaep})
	require.Equal(t, "ValidationException", code(err))
}

func TestAliasMovesOnlyBetweenLikes(t *testing.T) {
	server := kmstest.NewServer(t)
	server.CreateKey(kmstest.Key{Alias: "alias/x"})
	rsa := server.CreateKey(kmstest.Key{Spec: "RSA_2048"})
	client := newClient(t, server, kmstest.Region)
	_, err := client.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/x"), TargetKeyId: &rsa.ID})
	require.Equal(t, "ValidationException", code(err))
	_, err = client.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: aws.String("alias/y"), TargetKeyId: &rsa.ID})
	require.Equal(t, "NotFoundException", code(err))
	_, err = client.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: aws.String("alias/y")})
	require.Equal(t, "NotFoundException", code(err))
}
