// Package kmswrap makes keys inside AWS KMS, which returns only their wrapped form, and unwraps
// them, for package provider/branchkey, which keeps wrapped keys in a table.
package kmswrap

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"piko.sh/pikokms/internal/arns"
	"piko.sh/pikokms/internal/kmsclient"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
)

// Wrapper makes wrapped keys in AWS KMS, moves them to other KMS keys, and unwraps them. It is safe
// for concurrent use.
type Wrapper struct {
	client      *kms.Client
	grantTokens []string
	keyARN      string
	trusted     []string // keyARN first
	multiRegion bool
	accounts    *arns.Accounts // nil if keys are configured
}

// New makes a Wrapper. It asks neither KMS nor a source of credentials. The error holds
// provider.ErrInvalidKey.
func New(ctx context.Context, c awskms.Config) (*Wrapper, error) {
	w := &Wrapper{keyARN: c.KeyID, multiRegion: c.MultiRegion, grantTokens: slices.Clone(c.GrantTokens)}
	if len(c.Accounts) > 0 {
		w.accounts = &arns.Accounts{IDs: slices.Clone(c.Accounts), Partition: c.Partition}
	} else {
		w.trusted = append([]string{c.KeyID}, c.TrustedKeys...)
	}
	if err := w.check(c); err != nil {
		return nil, err
	}
	var err error
	if w.client, err = awskms.NewClient(ctx, c); err != nil {
		return nil, err
	}
	region := w.client.Options().Region
	if w.accounts != nil {
		w.accounts.Region = region
	}
	for _, keyARN := range w.trusted {
		if arns.Region(keyARN) != region {
			return nil, fmt.Errorf("%w: the ARN %s is in Region %s, and KMS is asked in %s", provider.ErrInvalidKey, keyARN, arns.Region(keyARN), region)
		}
	}
	return w, nil
}

// check checks a configuration as far as that is possible without a client of KMS.
func (w *Wrapper) check(c awskms.Config) error {
	if w.accounts != nil && (c.KeyID != "" || len(c.TrustedKeys) > 0 || c.MultiRegion) {
		return fmt.Errorf("%w: give either the ARN of a KMS key or the accounts of discovery, not both", provider.ErrInvalidKey)
	}
	for _, keyARN := range w.trusted {
		if !arns.IsKey(keyARN) {
			return fmt.Errorf("%w: %q is not the ARN of a KMS key; key stores take neither aliases nor key IDs", provider.ErrInvalidKey, keyARN)
		}
	}
	if c.CheckLater || c.PublicKey != nil || c.PublicKeyFile != "" || c.Peer != nil || c.PeerFile != "" || c.Hash != 0 {
		return fmt.Errorf("%w: CheckLater, PublicKey, Peer, their files and Hash are for a Provider", provider.ErrInvalidKey)
	}
	if w.accounts != nil {
		return w.accounts.Check()
	}
	return nil
}

// KeyARN returns the ARN of the KMS key that wraps new keys, or nothing for discovery.
func (w *Wrapper) KeyARN() string { return w.keyARN }

// Trusts returns the ARN under which KMS is asked about a key that names the ARN of its wrapping
// key. For a multi-Region key that is the replica in the Wrapper's Region (specification:
// framework/branch-key-store.md, "AWS Key ARN Compatibility"). The error holds
// provider.ErrUntrustedKey.
func (w *Wrapper) Trusts(keyARN string) (string, error) {
	if w.accounts != nil {
		return w.accounts.Trusts(keyARN)
	}
	for _, trusted := range w.trusted {
		if trusted == keyARN || w.multiRegion && arns.AreReplicas(trusted, keyARN) {
			return trusted, nil
		}
	}
	return "", fmt.Errorf("%w: it is wrapped under %q", provider.ErrUntrustedKey, keyARN)
}

// Generate returns a new random key of 32 bytes, wrapped under a KMS key, with one call of KMS
// GenerateDataKeyWithoutPlaintext.
func (w *Wrapper) Generate(ctx context.Context, keyARN string, encryptionContext map[string]string) ([]byte, error) {
	out, err := w.client.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{
		KeyId: aws.String(keyARN), NumberOfBytes: aws.Int32(32), EncryptionContext: encryptionContext, GrantTokens: w.grantTokens,
	})
	if err == nil {
		err = checkAnswer(keyARN, aws.ToString(out.KeyId), out.CiphertextBlob)
	}
	if err != nil {
		return nil, fail(ctx, "Generate", keyARN, err)
	}
	return out.CiphertextBlob, nil
}

// ReEncrypt moves a wrapped key to another KMS key or another encryption context, with one call of
// KMS ReEncrypt. If both stay the same, it checks that the wrapped key belongs to them.
func (w *Wrapper) ReEncrypt(ctx context.Context, blob []byte, from string, fromContext map[string]string, to string, toContext map[string]string) ([]byte, error) {
	out, err := w.client.ReEncrypt(ctx, &kms.ReEncryptInput{
		CiphertextBlob: blob, SourceKeyId: aws.String(from), SourceEncryptionContext: fromContext,
		DestinationKeyId: aws.String(to), DestinationEncryptionContext: toContext, GrantTokens: w.grantTokens,
	})
	if err == nil {
		err = cmp.Or(checkAnswer(from, aws.ToString(out.SourceKeyId), blob), checkAnswer(to, aws.ToString(out.KeyId), out.CiphertextBlob))
	}
	if err != nil {
		return nil, fail(ctx, "ReEncrypt", from, err)
	}
	return out.CiphertextBlob, nil
}

// checkAnswer checks that an answer is about the key that was asked for, and has a wrapped key.
func checkAnswer(asked, keyARN string, blob []byte) error {
	if asked != keyARN {
		return fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrEncryptionFailed, asked, keyARN)
	}
	if len(blob) == 0 {
		return fmt.Errorf("%w: KMS answered without a wrapped key", provider.ErrEncryptionFailed)
	}
	return nil
}

// Decrypt unwraps a key with one call of KMS Decrypt. The caller closes the result.
func (w *Wrapper) Decrypt(ctx context.Context, keyARN string, blob []byte, encryptionContext map[string]string) (*provider.SecureBytes, error) {
	key, err := w.decrypt(ctx, keyARN, blob, encryptionContext)
	if err != nil {
		return nil, fail(ctx, "Decrypt", keyARN, err)
	}
	return key, nil
}

func (w *Wrapper) decrypt(ctx context.Context, keyARN string, blob []byte, encryptionContext map[string]string) (*provider.SecureBytes, error) {
	ctx, held := kmsclient.Hold(ctx)
	out, err := w.client.Decrypt(ctx, &kms.DecryptInput{
		KeyId: aws.String(keyARN), CiphertextBlob: blob, EncryptionContext: encryptionContext, GrantTokens: w.grantTokens,
	})
	if err != nil {
		return nil, err
	}
	plain := held.Take(out.Plaintext)
	defer clear(plain)
	if got := aws.ToString(out.KeyId); got != keyARN {
		return nil, fmt.Errorf("%w: KMS was asked about key %q and answered about %q", provider.ErrDecryptionFailed, keyARN, got)
	}
	return provider.NewSecureBytes(plain)
}

// fail returns the error of an operation under a key.
func fail(ctx context.Context, operation, keyARN string, err error) error {
	failure := provider.Failure(operation, awskms.KeyService.Type, keyARN, err)
	failure.Err = awskms.Judge(ctx, failure.Err)
	return failure
}
