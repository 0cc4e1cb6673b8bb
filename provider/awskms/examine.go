package awskms

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/provider"
)

// Actions of IAM that a Provider needs; see the package documentation for which.
const (
	actionDecrypt              = "kms:Decrypt"
	actionDescribeKey          = "kms:DescribeKey"
	actionDeriveSharedSecret   = "kms:DeriveSharedSecret"
	actionEncrypt              = "kms:Encrypt"
	actionGenerateDataKey      = "kms:GenerateDataKey"
	actionGetPublicKey         = "kms:GetPublicKey"
	actionReEncrypt            = "kms:ReEncrypt*" // kms:ReEncryptFrom and kms:ReEncryptTo
	actionGetKeyRotationStatus = "kms:GetKeyRotationStatus"
)

// Examination is KMS's description of a key, and what the credentials may do with it.
type Examination struct {
	// ARN is the key's ARN. It is empty if DescribeKey is not permitted and the key was not named
	// by its ARN. Without that permission, the fields up to Usable are empty, too.
	ARN          string
	State        string // such as "Enabled" or "PendingDeletion" (KMS API Reference, KeyMetadata, KeyState)
	Spec         string // such as "SYMMETRIC_DEFAULT"
	Usage        string // such as "ENCRYPT_DECRYPT"
	Origin       string // such as "AWS_KMS"
	MultiRegion  bool
	DeletionDate time.Time // zero if no deletion is planned
	Usable       error     // why the key can't wrap data keys; the error of NewProvider

	// Rotation is the automatic rotation of the key's material. It is nil if it is not known: for
	// RSA and EC keys, imported material, keys of other accounts, and without permission.
	Rotation *Rotation

	// Permissions has the actions that a Provider may need for a key of this kind.
	Permissions []Permission
}

// Rotation is the automatic rotation of a key's material.
type Rotation struct {
	Enabled bool
	Period  int       // in days; 0 if it is not known
	Next    time.Time // zero if there is none
}

// Permission is whether the credentials may take an action on a key.
type Permission struct {
	Action  string
	Allowed bool

	// Err is why the action is not allowed. It holds [provider.ErrAccessDenied] if a policy is the
	// reason. Any other error leaves it open, such as that of a disabled key.
	Err error
}

// Examine asks KMS about a key and, by dry runs, about the permissions that a Provider needs (AWS
// KMS Developer Guide, "Testing your permissions"). The calls have an encryption context, on which
// policies may depend. They change nothing.
//
// An endpoint that does not know dry runs carries the calls out. One that does not know dry runs of
// Decrypt without a ciphertext is asked for a data key, which is thrown away.
//
// The error holds one of those that the package documentation lists. A permission that is missing
// is no error.
func Examine(ctx context.Context, c Config, encryptionContext map[string]string) (*Examination, error) {
	loaded, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	x := &examiner{service: loaded, keyID: c.KeyID, pairs: encryptionContext}
	x.rsa.init(c.Hash)
	e := &Examination{}
	if arns.IsKey(c.KeyID) {
		e.ARN = c.KeyID
	}
	m, err := x.describe(ctx, c.KeyID)
	if err != nil && !isDenied(err) {
		return nil, fail(ctx, "Examine", c.KeyID, err)
	}
	e.add(ctx, actionDescribeKey, err)
	keyKind := symmetricKind
	if m != nil {
		e.describe(m)
		x.keyID, keyKind = e.ARN, kindOf(m.KeySpec)
	}
	if keyKind != symmetricKind {
		_, err := x.getPublicKey(ctx, x.keyID)
		e.add(ctx, actionGetPublicKey, err)
		if keyKind == rsaKind {
			e.add(ctx, actionDecrypt, x.decryptRSA(ctx))
		} else {
			e.add(ctx, actionDeriveSharedSecret, x.derive(ctx, m.KeySpec))
		}
		return e, x.ended(ctx)
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
		e.Rotation, err = x.rotation(ctx)
		e.add(ctx, actionGetKeyRotationStatus, err)
	}
	return e, x.ended(ctx)
}

// describe takes over what DescribeKey answered.
func (e *Examination) describe(m *types.KeyMetadata) {
	e.ARN, e.State, e.Spec, e.Usage = aws.ToString(m.Arn), string(m.KeyState), string(m.KeySpec), string(m.KeyUsage)
	e.Origin, e.MultiRegion, e.DeletionDate = string(m.Origin), aws.ToBool(m.MultiRegion), aws.ToTime(m.DeletionDate)
	e.Usable = usable(m)
}

// add adds the answer to a question about an action.
func (e *Examination) add(ctx context.Context, action string, err error) {
	p := Permission{Action: action, Allowed: err == nil}
	if err != nil {
		p.Err = judge(ctx, err)
	}
	e.Permissions = append(e.Permissions, p)
}

// examiner asks KMS about a key.
type examiner struct {
	service
	keyID string
	pairs map[string]string
	rsa   rsaKey
	blob  []byte // a ciphertext under the key, if one was needed
}

// ended returns an error if the caller's context ended the questions.
func (x *examiner) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fail(ctx, "Examine", x.keyID, err)
	}
	return nil
}

// allowed turns the answer to a dry run into nil, if the call would have succeeded.
func allowed(err error) error {
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
	return allowed(err)
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
	return allowed(err)
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
	err := allowed(dryRun(x.blob, []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext}))
	if err == nil || isDenied(err) || x.blob != nil || !missesCiphertext(err) {
		return err
	}
	out, generateErr := x.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &x.keyID, KeySpec: types.DataKeySpecAes256, EncryptionContext: x.pairs, GrantTokens: x.grantTokens,
	})
	if generateErr != nil {
		return err
	}
	x.keep(out)
	return allowed(dryRun(x.blob, nil))
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
func (x *examiner) decryptRSA(ctx context.Context) error {
	_, err := x.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &x.keyID, EncryptionAlgorithm: x.rsa.algorithm, GrantTokens: x.grantTokens,
		DryRun: aws.Bool(true), DryRunModifiers: []types.DryRunModifierType{types.DryRunModifierTypeIgnoreCiphertext},
	})
	return allowed(err)
}

// derive asks about DeriveSharedSecret under an EC key, with a new key as its peer.
func (x *examiner) derive(ctx context.Context, spec types.KeySpec) error {
	peer, err := curves[spec].GenerateKey(rand.Reader)
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
	return allowed(err)
}

func (x *examiner) rotation(ctx context.Context) (*Rotation, error) {
	out, err := x.client.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &x.keyID})
	if err != nil {
		return nil, err
	}
	return &Rotation{out.KeyRotationEnabled, int(aws.ToInt32(out.RotationPeriodInDays)), aws.ToTime(out.NextRotationDate)}, nil
}

// IsDenied reports whether a policy is the reason why an action is not allowed.
func (p Permission) IsDenied() bool { return errors.Is(p.Err, provider.ErrAccessDenied) }
