package kmstest_test

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// subject is a key whose state is asked about, and a ciphertext from before it came into it.
type subject struct {
	*emulated
	key  *types.KeyMetadata
	blob []byte
}

// keyStates bring a new key into a state by calls.
var keyStates = map[string]func(e *emulated, in kms.CreateKeyInput) subject{
	"Disabled": func(e *emulated, in kms.CreateKeyInput) subject {
		s := subject{e, e.key(in), nil}
		s.blob = e.sealed(s.key, nil)
		_, err := e.DisableKey(e.t.Context(), &kms.DisableKeyInput{KeyId: s.key.KeyId})
		require.NoError(e.t, err)
		return s
	},
	"PendingDeletion": func(e *emulated, in kms.CreateKeyInput) subject {
		s := subject{e, e.key(in), nil}
		s.blob = e.sealed(s.key, nil)
		_, err := e.ScheduleKeyDeletion(e.t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: s.key.KeyId})
		require.NoError(e.t, err)
		return s
	},
	"PendingImport": func(e *emulated, in kms.CreateKeyInput) subject {
		in.Origin = types.OriginTypeExternal
		return subject{e, e.key(in), nil}
	},
}

// keyUses are operations on a key.
var keyUses = map[string]func(s subject, ctx context.Context) error{
	"CancelKeyDeletion": func(s subject, ctx context.Context) error {
		_, err := s.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: s.key.KeyId})
		return err
	},
	"CreateAlias": func(s subject, ctx context.Context) error {
		_, err := s.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/" + *s.key.KeyId), TargetKeyId: s.key.KeyId})
		return err
	},
	"Decrypt": func(s subject, ctx context.Context) error {
		_, err := s.Decrypt(ctx, &kms.DecryptInput{KeyId: s.key.KeyId, CiphertextBlob: s.blob})
		return err
	},
	"DescribeKey": func(s subject, ctx context.Context) error {
		_, err := s.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: s.key.KeyId})
		return err
	},
	"DisableKey": func(s subject, ctx context.Context) error {
		_, err := s.DisableKey(ctx, &kms.DisableKeyInput{KeyId: s.key.KeyId})
		return err
	},
	"DisableKeyRotation": func(s subject, ctx context.Context) error {
		_, err := s.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: s.key.KeyId})
		return err
	},
	"EnableKey": func(s subject, ctx context.Context) error {
		_, err := s.EnableKey(ctx, &kms.EnableKeyInput{KeyId: s.key.KeyId})
		return err
	},
	"EnableKeyRotation": func(s subject, ctx context.Context) error {
		_, err := s.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: s.key.KeyId})
		return err
	},
	"Encrypt": func(s subject, ctx context.Context) error {
		_, err := s.Encrypt(ctx, &kms.EncryptInput{KeyId: s.key.KeyId, Plaintext: []byte("x")})
		return err
	},
	"GenerateDataKey": func(s subject, ctx context.Context) error {
		_, err := s.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: s.key.KeyId, KeySpec: types.DataKeySpecAes256})
		return err
	},
	"GenerateDataKeyWithoutPlaintext": func(s subject, ctx context.Context) error {
		_, err := s.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: s.key.KeyId, KeySpec: types.DataKeySpecAes256})
		return err
	},
	"GetKeyRotationStatus": func(s subject, ctx context.Context) error {
		_, err := s.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: s.key.KeyId})
		return err
	},
	"ReEncrypt to": func(s subject, ctx context.Context) error {
		from := s.emulated.key(kms.CreateKeyInput{})
		_, err := s.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: s.sealed(from, nil), SourceKeyId: from.KeyId, DestinationKeyId: s.key.KeyId})
		return err
	},
	"ReEncrypt from": func(s subject, ctx context.Context) error {
		to := s.emulated.key(kms.CreateKeyInput{})
		_, err := s.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: s.blob, SourceKeyId: s.key.KeyId, DestinationKeyId: to.KeyId})
		return err
	},
	"ReplicateKey": func(s subject, ctx context.Context) error {
		_, err := s.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: s.key.KeyId, ReplicaRegion: aws.String("us-east-1")})
		return err
	},
	"RotateKeyOnDemand": func(s subject, ctx context.Context) error {
		_, err := s.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: s.key.KeyId})
		return err
	},
	"ScheduleKeyDeletion": func(s subject, ctx context.Context) error {
		_, err := s.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: s.key.KeyId})
		return err
	},
	"UpdateAlias": func(s subject, ctx context.Context) error {
		alias := s.alias(s.emulated.key(kms.CreateKeyInput{}))
		_, err := s.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: s.key.KeyId})
		return err
	},
}

const (
	disabled    = "DisabledException"
	badState    = "KMSInvalidStateException"
	unsupported = "UnsupportedOperationException"
)

// stateTable is AWS's table of key states (AWS KMS Developer Guide, "Key states of AWS KMS keys"),
// of those states that calls can bring about.
var stateTable = map[string]map[string]string{
	"Disabled": {
		"CancelKeyDeletion": badState, "CreateAlias": "ok", "Decrypt": disabled, "DescribeKey": "ok", "DisableKey": "ok",
		"DisableKeyRotation": disabled, "EnableKey": "ok", "EnableKeyRotation": disabled, "Encrypt": disabled,
		"GenerateDataKey": disabled, "GenerateDataKeyWithoutPlaintext": disabled, "GetKeyRotationStatus": "ok",
		"ReEncrypt to": disabled, "ReEncrypt from": disabled, "ReplicateKey": disabled, "RotateKeyOnDemand": disabled,
		"ScheduleKeyDeletion": "ok", "UpdateAlias": "ok",
	},
	"PendingDeletion": {
		"CancelKeyDeletion": "ok", "CreateAlias": badState, "Decrypt": badState, "DescribeKey": "ok", "DisableKey": badState,
		"DisableKeyRotation": badState, "EnableKey": badState, "EnableKeyRotation": badState, "Encrypt": badState,
		"GenerateDataKey": badState, "GenerateDataKeyWithoutPlaintext": badState, "GetKeyRotationStatus": "ok",
		"ReEncrypt to": badState, "ReEncrypt from": badState, "ReplicateKey": badState, "RotateKeyOnDemand": badState,
		"ScheduleKeyDeletion": badState, "UpdateAlias": badState,
	},
	"PendingImport": {
		"CancelKeyDeletion": badState, "CreateAlias": "ok", "DescribeKey": "ok", "DisableKey": badState,
		"DisableKeyRotation": unsupported, "EnableKey": badState, "EnableKeyRotation": unsupported, "Encrypt": badState,
		"GenerateDataKey": badState, "GenerateDataKeyWithoutPlaintext": badState, "GetKeyRotationStatus": unsupported,
		"ReEncrypt to": badState, "ReplicateKey": badState, "ScheduleKeyDeletion": "ok", "UpdateAlias": "ok",
	},
}

// stateAgreements asks each operation about a key in each state.
func stateAgreements() map[string]agreement {
	all := make(map[string]agreement)
	for state, wants := range stateTable {
		for operation, want := range wants {
			all[operation+" of a key that is "+state] = agreement{
				ask: func(e *emulated, ctx context.Context) string {
					in := kms.CreateKeyInput{MultiRegion: aws.Bool(operation == "ReplicateKey")}
					return outcome(keyUses[operation](keyStates[state](e, in), ctx))
				},
				want: want,
			}
		}
	}
	return all
}
