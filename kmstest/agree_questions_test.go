package kmstest_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// agreement is a question to each KMS, and the answer of AWS by its documentation.
type agreement struct {
	ask  func(e *emulated, ctx context.Context) string
	want string
}

// deriveWith asks a key for the secret that it shares with a new key on a curve.
func deriveWith(key kms.CreateKeyInput, curve ecdh.Curve) func(*emulated, context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		peer, err := curve.GenerateKey(rand.Reader)
		require.NoError(e.t, err)
		der, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
		require.NoError(e.t, err)
		_, err = e.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: e.key(key).KeyId, PublicKey: der, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
		return outcome(err)
	}
}

const unknownKeyID = "1234abcd-12ab-34cd-56ef-1234567890ab"

var pairs = map[string]string{"tenant": "42", "purpose": "test"}

var agreements = map[string]agreement{
	"a new key is enabled": {
		ask: func(e *emulated, ctx context.Context) string {
			m := e.key(kms.CreateKeyInput{Description: aws.String("new")})
			return outcome(nil, m.KeyState, m.Enabled, m.KeyUsage, m.KeySpec, m.Origin, m.KeyManager, aws.ToBool(m.MultiRegion),
				m.EncryptionAlgorithms, aws.ToString(m.Description))
		},
		want: "ok Enabled true ENCRYPT_DECRYPT SYMMETRIC_DEFAULT AWS_KMS CUSTOMER false [SYMMETRIC_DEFAULT] new",
	},
	"a key is described by each of its names": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			alias := e.alias(key)
			var found []any
			for _, name := range []string{*key.KeyId, *key.Arn, alias, strings.Replace(*key.Arn, "key/"+*key.KeyId, alias, 1)} {
				out, err := e.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &name})
				if err != nil {
					return outcome(err)
				}
				found = append(found, *out.KeyMetadata.Arn == *key.Arn)
			}
			return outcome(nil, found...)
		},
		want: "ok true true true true",
	},
	"a key ID that is none": {ask: describe("1234"), want: "NotFoundException"},
	"an unknown key ID":     {ask: describe(unknownKeyID), want: "NotFoundException"},
	"an unknown alias":      {ask: describe("alias/nobody"), want: "NotFoundException"},
	"an ARN of another Region": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.in("us-east-1").DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key.Arn})
			return outcome(err)
		},
		want: "NotFoundException",
	},
	"a key ID of another Region": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.in("us-east-1").DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key.KeyId})
			return outcome(err)
		},
		want: "NotFoundException",
	},

	"a data key decrypts": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			made, err := e.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key.KeyId, KeySpec: types.DataKeySpecAes256, EncryptionContext: pairs})
			if err != nil {
				return outcome(err)
			}
			got, err := e.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: pairs, KeyId: key.Arn})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, len(made.Plaintext), string(got.Plaintext) == string(made.Plaintext), *made.KeyId == *key.Arn, *got.KeyId == *key.Arn)
		},
		want: "ok 32 true true true",
	},
	"a data key of AES_128": {ask: dataKey(kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes128}), want: "ok 16"},
	"a data key of 1,024 bytes": {
		ask: dataKey(kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1024)}), want: "ok 1024",
	},
	"a data key of 1,025 bytes": {
		ask: dataKey(kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1025)}), want: "ValidationException",
	},
	"a data key of no size": {ask: dataKey(kms.GenerateDataKeyInput{}), want: "ValidationException"},
	"a data key of two sizes": {
		ask:  dataKey(kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes128, NumberOfBytes: aws.Int32(16)}),
		want: "ValidationException",
	},
	"a data key of an unknown spec": {
		ask: dataKey(kms.GenerateDataKeyInput{KeySpec: "AES_512"}), want: "ValidationException",
	},
	"a data key without plaintext": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			made, err := e.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: key.KeyId, KeySpec: types.DataKeySpecAes256})
			if err != nil {
				return outcome(err)
			}
			got, err := e.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, len(got.Plaintext))
		},
		want: "ok 32",
	},

	"4,096 bytes encrypt":      {ask: encrypt(4096), want: "ok"},
	"4,097 bytes do not":       {ask: encrypt(4097), want: "ValidationException"},
	"nothing does not encrypt": {ask: encrypt(0), want: "ValidationException"},

	"the same encryption context":     {ask: decrypt(pairs, map[string]string{"purpose": "test", "tenant": "42"}), want: "ok secret true"},
	"no encryption context":           {ask: decrypt(nil, nil), want: "ok secret true"},
	"no and an empty context":         {ask: decrypt(nil, map[string]string{}), want: "ok secret true"},
	"a missing encryption context":    {ask: decrypt(pairs, nil), want: "InvalidCiphertextException"},
	"an unasked encryption context":   {ask: decrypt(nil, pairs), want: "InvalidCiphertextException"},
	"a smaller encryption context":    {ask: decrypt(pairs, map[string]string{"tenant": "42"}), want: "InvalidCiphertextException"},
	"another value in the context":    {ask: decrypt(pairs, map[string]string{"tenant": "43", "purpose": "test"}), want: "InvalidCiphertextException"},
	"another case in the context":     {ask: decrypt(map[string]string{"a": "B"}, map[string]string{"a": "b"}), want: "InvalidCiphertextException"},
	"characters moved in a context":   {ask: decrypt(map[string]string{"ab": "c"}, map[string]string{"a": "bc"}), want: "InvalidCiphertextException"},
	"pairs joined in a context":       {ask: decrypt(map[string]string{"a": "b", "c": "d"}, map[string]string{"a": "bcd"}), want: "InvalidCiphertextException"},
	"a context that is not English":   {ask: decrypt(map[string]string{"ключ": "鍵"}, map[string]string{"ключ": "鍵"}), want: "ok secret true"},
	"a ciphertext that is none":       {ask: tampered(func([]byte) []byte { return []byte("no ciphertext at all") }), want: "InvalidCiphertextException"},
	"a ciphertext cut short":          {ask: tampered(func(b []byte) []byte { return b[:len(b)-1] }), want: "InvalidCiphertextException"},
	"a ciphertext with a byte more":   {ask: tampered(func(b []byte) []byte { return append(b, 0) }), want: "InvalidCiphertextException"},
	"a ciphertext changed at the end": {ask: tampered(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), want: "InvalidCiphertextException"},
	"a ciphertext of 6,145 bytes":     {ask: tampered(func(b []byte) []byte { return make([]byte, 6145) }), want: "ValidationException"},
	"a ciphertext of no bytes":        {ask: tampered(func(b []byte) []byte { return []byte{} }), want: "ValidationException"},
	"a decrypt under another key": {
		ask: func(e *emulated, ctx context.Context) string {
			blob := e.sealed(e.key(kms.CreateKeyInput{}), nil)
			_, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: e.key(kms.CreateKeyInput{}).KeyId, CiphertextBlob: blob})
			return outcome(err)
		},
		want: "IncorrectKeyException",
	},
	"a decrypt under the key's alias": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(e.alias(key)), CiphertextBlob: e.sealed(key, nil)})
			return outcome(err)
		},
		want: "ok",
	},
	"a decrypt under an unknown key": {
		ask: func(e *emulated, ctx context.Context) string {
			blob := e.sealed(e.key(kms.CreateKeyInput{}), nil)
			_, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String(unknownKeyID), CiphertextBlob: blob})
			return outcome(err)
		},
		want: "NotFoundException",
	},
	"a decrypt in another Region": {
		ask: func(e *emulated, ctx context.Context) string {
			blob := e.sealed(e.key(kms.CreateKeyInput{}), nil)
			_, err := e.in("us-east-1").Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})
			return outcome(err)
		},
		want: "AccessDeniedException",
	},
	"grant tokens": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: e.sealed(key, nil), GrantTokens: []string{"token"}})
			return outcome(err)
		},
		want: "ok",
	},
	"eleven grant tokens": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: key.KeyId, Plaintext: []byte("x"), GrantTokens: slices.Repeat([]string{"token"}, 11)})
			return outcome(err)
		},
		want: "ValidationException",
	},
	"a dry run that would succeed": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: key.KeyId, Plaintext: []byte("x"), DryRun: aws.Bool(true)})
			return outcome(err)
		},
		want: "DryRunOperationException",
	},
	"a dry run that would fail": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String(unknownKeyID), Plaintext: []byte("x"), DryRun: aws.Bool(true)})
			return outcome(err)
		},
		want: "NotFoundException",
	},

	"a value moved to another key": {
		ask: func(e *emulated, ctx context.Context) string {
			from, to := e.key(kms.CreateKeyInput{}), e.key(kms.CreateKeyInput{})
			other := map[string]string{"tenant": "43"}
			moved, err := e.ReEncrypt(ctx, &kms.ReEncryptInput{
				CiphertextBlob: e.sealed(from, pairs), SourceKeyId: from.Arn, SourceEncryptionContext: pairs,
				DestinationKeyId: to.Arn, DestinationEncryptionContext: other,
			})
			if err != nil {
				return outcome(err)
			}
			got, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: to.Arn, CiphertextBlob: moved.CiphertextBlob, EncryptionContext: other})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, string(got.Plaintext), *moved.SourceKeyId == *from.Arn, *moved.KeyId == *to.Arn)
		},
		want: "ok secret true true",
	},
	"a value moved from a key that is not named": {
		ask: func(e *emulated, ctx context.Context) string {
			from, to := e.key(kms.CreateKeyInput{}), e.key(kms.CreateKeyInput{})
			_, err := e.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: e.sealed(from, nil), DestinationKeyId: to.Arn})
			return outcome(err)
		},
		want: "ok",
	},
	"a value moved from a wrong key": {
		ask: func(e *emulated, ctx context.Context) string {
			from, to := e.key(kms.CreateKeyInput{}), e.key(kms.CreateKeyInput{})
			_, err := e.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: e.sealed(from, nil), SourceKeyId: to.Arn, DestinationKeyId: to.Arn})
			return outcome(err)
		},
		want: "IncorrectKeyException",
	},
	"a value moved with a wrong context": {
		ask: func(e *emulated, ctx context.Context) string {
			from, to := e.key(kms.CreateKeyInput{}), e.key(kms.CreateKeyInput{})
			_, err := e.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: e.sealed(from, pairs), SourceKeyId: from.Arn, DestinationKeyId: to.Arn})
			return outcome(err)
		},
		want: "InvalidCiphertextException",
	},

	"a ciphertext from before rotations": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			blobs := [][]byte{e.sealed(key, pairs)}
			for range 3 {
				if _, err := e.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: key.KeyId}); err != nil {
					return outcome(err)
				}
				blobs = append(blobs, e.sealed(key, pairs))
			}
			for _, blob := range blobs {
				if _, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: key.Arn, CiphertextBlob: blob, EncryptionContext: pairs}); err != nil {
					return outcome(err)
				}
			}
			return outcome(nil)
		},
		want: "ok",
	},
	"a rotation of a key that rotates": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			status := func() any {
				out, err := e.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key.KeyId})
				if err != nil {
					return outcome(err)
				}
				return fmt.Sprint(out.KeyRotationEnabled, aws.ToInt32(out.RotationPeriodInDays))
			}
			var seen []any
			seen = append(seen, status())
			_, err := e.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key.KeyId})
			seen = append(seen, outcome(err), status())
			_, err = e.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key.KeyId, RotationPeriodInDays: aws.Int32(90)})
			seen = append(seen, outcome(err), status())
			_, err = e.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: key.KeyId})
			return outcome(nil, append(seen, outcome(err), status())...)
		},
		want: "ok false 0 ok true 365 ok true 90 ok false 0",
	},
	"a rotation period of 89 days": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key.KeyId, RotationPeriodInDays: aws.Int32(89)})
			return outcome(err)
		},
		want: "ValidationException",
	},
	"a rotation of an RSA key": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			_, err := e.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: key.KeyId})
			return outcome(err)
		},
		want: "UnsupportedOperationException",
	},

	"a multi-Region key and its replica": {
		ask: func(e *emulated, ctx context.Context) string {
			primary := e.key(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
			replicated, err := e.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: primary.KeyId, ReplicaRegion: aws.String("us-east-1")})
			if err != nil {
				return outcome(err)
			}
			there := e.in("us-east-1")
			out, err := there.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: replicated.ReplicaKeyMetadata.Arn})
			if err != nil {
				return outcome(err)
			}
			replica := out.KeyMetadata
			got, err := there.Decrypt(ctx, &kms.DecryptInput{KeyId: replica.Arn, CiphertextBlob: e.sealed(primary, pairs), EncryptionContext: pairs})
			if err != nil {
				return outcome(err)
			}
			c := replica.MultiRegionConfiguration
			return outcome(nil, strings.HasPrefix(*primary.KeyId, "mrk-"), *replica.KeyId == *primary.KeyId, replica.KeyState,
				c.MultiRegionKeyType, aws.ToString(c.PrimaryKey.Arn) == *primary.Arn, len(c.ReplicaKeys), *got.KeyId == *replica.Arn)
		},
		want: "ok true true Enabled REPLICA true 1 true",
	},
	"a second replica in one Region": {
		ask: func(e *emulated, ctx context.Context) string {
			primary := e.key(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
			for range 2 {
				_, err := e.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: primary.KeyId, ReplicaRegion: aws.String("us-east-1")})
				if err != nil {
					return outcome(err)
				}
			}
			return outcome(nil)
		},
		want: "AlreadyExistsException",
	},
	"a replica of a key of one Region": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: e.key(kms.CreateKeyInput{}).KeyId, ReplicaRegion: aws.String("us-east-1")})
			return outcome(err)
		},
		want: "UnsupportedOperationException",
	},
	"a primary key's deletion waits for its replica's": {
		ask: func(e *emulated, ctx context.Context) string {
			primary := e.key(kms.CreateKeyInput{MultiRegion: aws.Bool(true)})
			_, err := e.ReplicateKey(ctx, &kms.ReplicateKeyInput{KeyId: primary.KeyId, ReplicaRegion: aws.String("us-east-1")})
			if err != nil {
				return outcome(err)
			}
			out, err := e.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: primary.KeyId})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, out.KeyState)
		},
		want: "ok PendingReplicaDeletion",
	},

	"an alias that exists": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(e.alias(key)), TargetKeyId: key.KeyId})
			return outcome(err)
		},
		want: "AlreadyExistsException",
	},
	"an alias without its prefix": {ask: createAlias("documents"), want: "ValidationException"},
	"an alias of AWS":             {ask: createAlias("alias/aws/s3"), want: "NotAuthorizedException"},
	"an alias with a colon":       {ask: createAlias("alias/a:b"), want: "InvalidAliasNameException"},
	"an alias with a blank":       {ask: createAlias("alias/a b"), want: "ValidationException"},
	"an alias of an unknown key": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/nothing"), TargetKeyId: aws.String(unknownKeyID)})
			return outcome(err)
		},
		want: "NotFoundException",
	},
	"an alias that moves": {
		ask: func(e *emulated, ctx context.Context) string {
			from, to := e.key(kms.CreateKeyInput{}), e.key(kms.CreateKeyInput{})
			alias := e.alias(from)
			if _, err := e.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: to.KeyId}); err != nil {
				return outcome(err)
			}
			out, err := e.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &alias})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, *out.KeyMetadata.Arn == *to.Arn)
		},
		want: "ok true",
	},
	"an alias that is deleted": {
		ask: func(e *emulated, ctx context.Context) string {
			alias := e.alias(e.key(kms.CreateKeyInput{}))
			_, err := e.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &alias})
			_, err2 := e.Encrypt(ctx, &kms.EncryptInput{KeyId: &alias, Plaintext: []byte("x")})
			return outcome(err) + " " + outcome(err2)
		},
		want: "ok NotFoundException",
	},

	"an RSA key's algorithms": {
		ask: func(e *emulated, ctx context.Context) string {
			m := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			return outcome(nil, m.EncryptionAlgorithms, m.SigningAlgorithms)
		},
		want: "ok [RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256] []",
	},
	"an RSA key encrypts with SHA-1":            {ask: asymmetric(types.EncryptionAlgorithmSpecRsaesOaepSha1, 214), want: "ok true"},
	"an RSA key encrypts with SHA-256":          {ask: asymmetric(types.EncryptionAlgorithmSpecRsaesOaepSha256, 190), want: "ok true"},
	"an RSA key encrypts no more with SHA-1":    {ask: asymmetric(types.EncryptionAlgorithmSpecRsaesOaepSha1, 215), want: "ValidationException"},
	"an RSA key encrypts no more with SHA-256":  {ask: asymmetric(types.EncryptionAlgorithmSpecRsaesOaepSha256, 191), want: "ValidationException"},
	"an RSA key and the algorithm of symmetric": {ask: asymmetric(types.EncryptionAlgorithmSpecSymmetricDefault, 1), want: "InvalidKeyUsageException"},
	"an RSA key without an algorithm":           {ask: asymmetric("", 1), want: "InvalidKeyUsageException"},
	"an RSA key needs a usage": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048})
			return outcome(err)
		},
		want: "ValidationException",
	},
	"a data key under an RSA key": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			_, err := e.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key.KeyId, KeySpec: types.DataKeySpecAes256})
			return outcome(err)
		},
		want: "InvalidKeyUsageException",
	},
	"an encryption under an HMAC key": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
			_, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: key.KeyId, Plaintext: []byte("x")})
			return outcome(err)
		},
		want: "InvalidKeyUsageException",
	},
	"a key agreement key": {
		ask: func(e *emulated, ctx context.Context) string {
			m := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement})
			return outcome(nil, m.KeyUsage, m.KeySpec, m.KeyAgreementAlgorithms)
		},
		want: "ok KEY_AGREEMENT ECC_NIST_P256 [ECDH]",
	},
	"an RSA key that agrees on secrets": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeKeyAgreement})
			return outcome(err)
		},
		want: "ValidationException",
	},
	"an unknown key spec": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: "RSA_1024", KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			return outcome(err)
		},
		want: "ValidationException",
	},
	"a public key encrypts": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
			out, err := e.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: key.KeyId})
			if err != nil {
				return outcome(err)
			}
			public, err := x509.ParsePKIXPublicKey(out.PublicKey)
			require.NoError(e.t, err)
			blob, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), []byte("outside"), nil)
			require.NoError(e.t, err)
			got, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: key.KeyId, CiphertextBlob: blob, EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, string(got.Plaintext), out.KeySpec, out.KeyUsage, out.EncryptionAlgorithms)
		},
		want: "ok outside RSA_2048 ENCRYPT_DECRYPT [RSAES_OAEP_SHA_1 RSAES_OAEP_SHA_256]",
	},
	"two keys agree on one secret, and outside of KMS too": {
		ask: func(e *emulated, ctx context.Context) string {
			a := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP384, KeyUsage: types.KeyUsageTypeKeyAgreement})
			out, err := e.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: a.KeyId})
			if err != nil {
				return outcome(err)
			}
			parsed, err := x509.ParsePKIXPublicKey(out.PublicKey)
			require.NoError(e.t, err)
			of, err := parsed.(*ecdsa.PublicKey).ECDH()
			require.NoError(e.t, err)
			outside, err := ecdh.P384().GenerateKey(rand.Reader)
			require.NoError(e.t, err)
			want, err := outside.ECDH(of)
			require.NoError(e.t, err)
			der, err := x509.MarshalPKIXPublicKey(outside.PublicKey())
			require.NoError(e.t, err)
			got, err := e.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{KeyId: a.KeyId, PublicKey: der, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh})
			if err != nil {
				return outcome(err)
			}
			return outcome(nil, bytes.Equal(want, got.SharedSecret), *got.KeyId == *a.Arn, got.KeyAgreementAlgorithm, got.KeyOrigin)
		},
		want: "ok true true ECDH AWS_KMS",
	},
	"a symmetric key agrees on nothing": {
		ask:  deriveWith(kms.CreateKeyInput{}, ecdh.P256()),
		want: "InvalidKeyUsageException",
	},
	"a key that signs agrees on nothing": {
		ask:  deriveWith(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}, ecdh.P256()),
		want: "InvalidKeyUsageException",
	},
	"keys on two curves agree on nothing": {
		ask:  deriveWith(kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeKeyAgreement}, ecdh.P384()),
		want: "ValidationException",
	},
	"the public key of a symmetric key": {
		ask: func(e *emulated, ctx context.Context) string {
			_, err := e.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: e.key(kms.CreateKeyInput{}).KeyId})
			return outcome(err)
		},
		want: "UnsupportedOperationException",
	},

	"a deletion in 7 days": {ask: schedule(7), want: "ok PendingDeletion 7"},
	"a deletion in 6 days": {ask: schedule(6), want: "ValidationException"},
	"a deletion in 31 days": {
		ask: schedule(31), want: "ValidationException",
	},
	"a deletion that is cancelled leaves a disabled key": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			_, err := e.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId})
			require.NoError(e.t, err)
			_, err = e.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
			require.NoError(e.t, err)
			out, err := e.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key.KeyId})
			require.NoError(e.t, err)
			return outcome(nil, out.KeyMetadata.KeyState, out.KeyMetadata.DeletionDate == nil)
		},
		want: "ok Disabled true",
	},
	"a key that is enabled again": {
		ask: func(e *emulated, ctx context.Context) string {
			key := e.key(kms.CreateKeyInput{})
			blob := e.sealed(key, nil)
			_, err := e.DisableKey(ctx, &kms.DisableKeyInput{KeyId: key.KeyId})
			require.NoError(e.t, err)
			_, err = e.EnableKey(ctx, &kms.EnableKeyInput{KeyId: key.KeyId})
			require.NoError(e.t, err)
			_, err = e.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: blob})
			return outcome(err)
		},
		want: "ok",
	},
}

func describe(keyID string) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		_, err := e.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &keyID})
		return outcome(err)
	}
}

func dataKey(in kms.GenerateDataKeyInput) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		in := in
		in.KeyId = e.key(kms.CreateKeyInput{}).KeyId
		out, err := e.GenerateDataKey(ctx, &in)
		if err != nil {
			return outcome(err)
		}
		return outcome(nil, len(out.Plaintext))
	}
}

func encrypt(size int) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		key := e.key(kms.CreateKeyInput{})
		_, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: key.KeyId, Plaintext: make([]byte, size)})
		return outcome(err)
	}
}

// decrypt encrypts and decrypts, each with its encryption context.
func decrypt(before, after map[string]string) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		key := e.key(kms.CreateKeyInput{})
		got, err := e.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: e.sealed(key, before), EncryptionContext: after})
		if err != nil {
			return outcome(err)
		}
		return outcome(nil, string(got.Plaintext), *got.KeyId == *key.Arn)
	}
}

func tampered(change func([]byte) []byte) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		key := e.key(kms.CreateKeyInput{})
		_, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: key.Arn, CiphertextBlob: change(e.sealed(key, nil))})
		return outcome(err)
	}
}

func createAlias(name string) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		alias := name + strings.ToLower(rand.Text()) // LocalStack may have it from a run before
		_, err := e.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: e.key(kms.CreateKeyInput{}).KeyId})
		return outcome(err)
	}
}

// asymmetric encrypts and decrypts under an RSA_2048 key.
func asymmetric(algorithm types.EncryptionAlgorithmSpec, size int) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		key := e.key(kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt})
		plaintext := []byte(strings.Repeat("x", size))
		out, err := e.Encrypt(ctx, &kms.EncryptInput{KeyId: key.KeyId, Plaintext: plaintext, EncryptionAlgorithm: algorithm})
		if err != nil {
			return outcome(err)
		}
		got, err := e.Decrypt(ctx, &kms.DecryptInput{KeyId: key.KeyId, CiphertextBlob: out.CiphertextBlob, EncryptionAlgorithm: algorithm})
		if err != nil {
			return outcome(err)
		}
		return outcome(nil, string(got.Plaintext) == string(plaintext))
	}
}

func schedule(days int32) func(e *emulated, ctx context.Context) string {
	return func(e *emulated, ctx context.Context) string {
		key := e.key(kms.CreateKeyInput{})
		out, err := e.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: &days})
		if err != nil {
			return outcome(err)
		}
		return outcome(nil, out.KeyState, aws.ToInt32(out.PendingWindowInDays))
	}
}
