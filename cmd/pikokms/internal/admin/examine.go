package admin

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// examination is KMS's description of a key, and what the credentials may do with it.
type examination struct {
	// arn is the key's ARN. It is empty if DescribeKey is not permitted and the key was not named
	// by its ARN.
	arn string

	key    *types.KeyMetadata // nil if DescribeKey is not permitted
	usable error              // why the key can't wrap data keys; the error of awskms.NewProvider

	// rotation is the automatic rotation of the key's material. It is nil if it is not known: for
	// RSA and EC keys, imported material, keys of other accounts, and without permission.
	rotation *kms.GetKeyRotationStatusOutput

	// permissions has the actions that a provider may need for a key of this kind.
	permissions []permission
}

// permission is whether the credentials may take an action on a key.
type permission struct {
	action string

	// err is why the action is not allowed, or nil. It holds [provider.ErrAccessDenied] if a policy
	// is the reason. Any other error leaves it open, such as that of a disabled key.
	err error
}

// isDenied reports whether a policy is the reason why an action is not allowed.
func (p permission) isDenied() bool { return errors.Is(p.err, provider.ErrAccessDenied) }

// examine asks KMS about a key and, by dry runs, about the permissions that a provider needs (AWS
// KMS Developer Guide, "Testing your permissions"). The calls have an encryption context, on which
// policies may depend. They change nothing.
//
// An endpoint that does not know dry runs carries the calls out. One that does not know dry runs of
// Decrypt without a ciphertext is asked for a data key, which is thrown away.
//
// The error is one of awskms. A permission that is missing is no error.
func examine(ctx context.Context, c awskms.Config, encryptionContext map[string]string) (*examination, error) {
	client, err := awskms.NewClient(ctx, c)
	if err != nil {
		return nil, err
	}
	x := &examiner{client: client, keyID: c.KeyID, grantTokens: c.GrantTokens, pairs: encryptionContext}
	e := &examination{}
	if isKeyARN(c.KeyID) {
		e.arn = c.KeyID
	}
	m, err := x.describe(ctx)
	if err != nil && !isRefused(err) {
		return nil, awskms.Judge(ctx, err)
	}
	e.add(ctx, actionDescribeKey, err)
	if m != nil {
		e.key, e.arn, e.usable = m, aws.ToString(m.Arn), awskms.CheckKey(m)
		x.keyID = e.arn
	}
	if m != nil && (isRSA(m.KeySpec) || curves[m.KeySpec] != nil) {
		_, err := x.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &x.keyID, GrantTokens: x.grantTokens})
		e.add(ctx, actionGetPublicKey, err)
		if isRSA(m.KeySpec) {
			e.add(ctx, actionDecrypt, x.decryptRSA(ctx, c.Hash))
		} else {
			e.add(ctx, actionDeriveSharedSecret, x.derive(ctx, curves[m.KeySpec]))
		}
		return e, ctx.Err()
	}
	for _, question := range []struct {
		action string
		ask    func(context.Context) error
	}{
		{actionGenerateDataKey, x.generate},
		{actionEncrypt, x.encrypt},
		{actionDecrypt, x.decrypt},
		{actionReEncrypt, x.reEncrypt},
	} {
		e.add(ctx, question.action, question.ask(ctx))
	}
	if m != nil {
		e.rotation, err = x.client.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &x.keyID})
		e.add(ctx, actionGetKeyRotationStatus, err)
	}
	return e, ctx.Err()
}

// add adds the answer to a question about an action.
func (e *examination) add(ctx context.Context, action string, err error) {
	e.permissions = append(e.permissions, permission{action, awskms.Judge(ctx, err)})
}

// examiner asks KMS about a key.
type examiner struct {
	client      *kms.Client
	keyID       string
	grantTokens []string
	pairs       map[string]string
	blob        []byte // a ciphertext under the key, if one was needed
}

// describe returns KMS's description of the key.
func (x *examiner) describe(ctx context.Context) (*types.KeyMetadata, error) {
	out, err := x.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &x.keyID, GrantTokens: x.grantTokens})
	if err != nil {
		return nil, err
	}
	m := out.KeyMetadata
	if m == nil || !isKeyARN(aws.ToString(m.Arn)) || isKeyARN(x.keyID) && aws.ToString(m.Arn) != x.keyID {
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about another", provider.ErrInvalidKey, x.keyID)
	}
	return m, nil
}

// ignoreDryRun turns the answer to a dry run into nil, if the call would have succeeded.
func ignoreDryRun(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "DryRunOperationException" {
		return nil
	}
	return err
}

func (x *examiner) generate(ctx context.Context) error {
	out, err := x.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &x.keyID, KeySpec: types.DataKeySpecAes256, EncryptionContext: x.pairs, GrantTokens: x.grantTokens, DryRun: aws.Bool(true),
	})
	if err == nil {
		x.keep(out)
	}
	return ignoreDryRun(err)
}

// keep keeps the ciphertext of a data key, and not the data key.
func (x *examiner) keep(out *kms.GenerateDataKeyOutput) {
	clear(out.Plaintext)
	x.blob = out.CiphertextBlob
}

func (x *examiner) encrypt(ctx context.Context) error {
	out, err := x.client.Encrypt(ctx, &kms.EncryptInput{
		KeyId: &x.keyID, Plaintext: make([]byte, 32), EncryptionContext: x.pairs, GrantTokens: x.grantTokens, DryRun: aws.Bool(true),
	})
	if err == nil && x.blob == nil {
		x.blob = out.CiphertextBlob
	}
	return ignoreDryRun(err)
}

func (x *examiner) decrypt(ctx context.Context) error {
	return x.withCiphertext(ctx, func(blob []byte, modifiers []types.DryRunModifierType) error {
		out, err := x.client.Decrypt(ctx, &kms.DecryptInput{
			KeyId: &x.keyID, CiphertextBlob: blob, EncryptionContext: x.pairs, GrantTokens: x.grantTokens,
			DryRun: aws.Bool(true), DryRunModifiers: modifiers,
		})
		if err == nil {
			clear(out.Plaintext)
		}
		return err
	})
}

func (x *examiner) reEncrypt(ctx context.Context) error {
	return x.withCiphertext(ctx, func(blob []byte, modifiers []types.DryRunModifierType) error {
		_, err := x.client.ReEncrypt(ctx, &kms.ReEncryptInput{
			SourceKeyId: &x.keyID, DestinationKeyId: &x.keyID, CiphertextBlob: blob, GrantTokens: x.grantTokens,
			SourceEncryptionContext: x.pairs, DestinationEncryptionContext: x.pairs,
			DryRun: aws.Bool(true), DryRunModifiers: modifiers,
		})
		return err
	})
}

// withCiphertext makes a dry run that ignores the ciphertext. If KMS looks for one all the same, it
// makes the dry run again, with a ciphertext.
func (x *examiner) withCiphertext(ctx context.Context, dryRun func(blob []byte, modifiers []types.DryRunModifierType) error) error {
	err := ignoreDryRun(dryRun(x.blob, []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext}))
	if err == nil || isRefused(err) || x.blob != nil || !missesCiphertext(err) {
		return err
	}
	out, generateErr := x.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &x.keyID, KeySpec: types.DataKeySpecAes256, EncryptionContext: x.pairs, GrantTokens: x.grantTokens,
	})
	if generateErr != nil {
		return err
	}
	x.keep(out)
	return ignoreDryRun(dryRun(x.blob, nil))
}

// missesCiphertext reports whether KMS may have refused a dry run for want of a ciphertext.
func missesCiphertext(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return false
	}
	switch api.ErrorCode() {
	case "InvalidCiphertextException", "ValidationException", "InternalError", "InternalFailure", "KMSInternalException":
		return true
	}
	return false
}

// decryptRSA asks about Decrypt under an RSA key, for which nothing can be encrypted without the
// public key.
func (x *examiner) decryptRSA(ctx context.Context, hash crypto.Hash) error {
	algorithm := types.EncryptionAlgorithmSpecRsaesOaepSha256
	if hash == crypto.SHA1 {
		algorithm = types.EncryptionAlgorithmSpecRsaesOaepSha1
	}
	_, err := x.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &x.keyID, EncryptionAlgorithm: algorithm, GrantTokens: x.grantTokens,
		DryRun: aws.Bool(true), DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	})
	return ignoreDryRun(err)
}

// derive asks about DeriveSharedSecret under an EC key, with a new key as its peer.
func (x *examiner) derive(ctx context.Context, curve ecdh.Curve) error {
	peer, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(peer.PublicKey())
	if err != nil {
		return err
	}
	out, err := x.client.DeriveSharedSecret(ctx, &kms.DeriveSharedSecretInput{
		KeyId: &x.keyID, KeyAgreementAlgorithm: types.KeyAgreementAlgorithmSpecEcdh, PublicKey: der, GrantTokens: x.grantTokens,
		DryRun: aws.Bool(true),
	})
	if err == nil {
		clear(out.SharedSecret)
	}
	return ignoreDryRun(err)
}

// isRefused reports whether KMS answered that valid credentials do not permit a call.
func isRefused(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "AccessDeniedException" || api.ErrorCode() == "AccessDenied")
}

// curves has the curves of EC keys for key agreement.
var curves = map[types.KeySpec]ecdh.Curve{
	types.KeySpecEccNistP256: ecdh.P256(), types.KeySpecEccNistP384: ecdh.P384(), types.KeySpecEccNistP521: ecdh.P521(),
}

func isRSA(spec types.KeySpec) bool { return strings.HasPrefix(string(spec), "RSA_") }

// isKeyARN reports whether a key is named by its own ARN, and not by its ID or an alias.
func isKeyARN(text string) bool {
	a, err := arn.Parse(text)
	return err == nil && strings.HasPrefix(a.Resource, "key/")
}
