// Package crypto_provider_aws_kms is Piko's AWS KMS encryption provider, built on pikokms:
//
//	kms, err := crypto_provider_aws_kms.NewProvider(ctx, crypto_provider_aws_kms.Config{KeyID: "alias/app-data", Region: "eu-west-1"})
//	…
//	ssr := piko.New(piko.WithCryptoProvider("kms", kms), piko.WithDefaultCryptoProvider("kms"))
//
// It stands between Piko's crypto service and package awskms, and translates requests, responses and errors. Its streams are
// AWS Encryption SDK messages; its strings are what Piko's own provider writes and reads.
package crypto_provider_aws_kms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"piko.sh/piko/internal/crypto/crypto_dto"
	"piko.sh/piko/wdk/crypto"

	"piko.sh/pikokms/message"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/awskms"
	"piko.sh/pikokms/service"
)

// pikosDefaultKey is the key ID that Piko's crypto service states when it is configured with none.
const pikosDefaultKey = "default"

// Config says which key to use. Credentials come from the AWS SDK's standard chain.
type Config struct {
	KeyID      string // key ID, key ARN, alias name ("alias/…") or alias ARN; required
	Region     string // of the key; required
	MaxRetries int    // retries after a failed call that may succeed later; 0 means 3

	Endpoint string // URL of another KMS endpoint: a VPC endpoint, LocalStack

	// AllowPikoV2 lets DecryptStream read the streams that Piko's own provider wrote, too. One that was cut between two chunks
	// reads as a shorter one, without an error; set it only while such streams remain. Strings need no such thing.
	AllowPikoV2 bool
}

// Provider implements crypto.EncryptionProvider. It is safe for concurrent use.
type Provider struct {
	kms         *service.Service
	allowPikoV2 bool
}

// NewProvider makes a provider and checks its key with one DescribeKey. The error holds one of Piko's and is that of
// awskms.NewProvider.
func NewProvider(ctx context.Context, c Config) (crypto.EncryptionProvider, error) {
	kms, err := awskms.NewProvider(ctx, awskms.Config{KeyID: c.KeyID, Region: c.Region, MaxRetries: c.MaxRetries, Endpoint: c.Endpoint})
	if err != nil {
		return nil, pikos(err)
	}
	return &Provider{service.New(kms, service.Config{}), c.AllowPikoV2}, nil
}

// pikosErrors are the errors of package provider that Piko knows under its own names.
var pikosErrors = []struct{ ours, pikos error }{
	{provider.ErrKeyNotFound, crypto.ErrKeyNotFound},
	{provider.ErrInvalidKey, crypto.ErrInvalidKey},
	{provider.ErrKeyUsage, crypto.ErrInvalidKey},
	{provider.ErrInvalidCiphertext, crypto.ErrInvalidCiphertext},
	{provider.ErrContextMismatch, crypto.ErrContextMismatch},
	{provider.ErrDecryptionFailed, crypto.ErrDecryptionFailed},
	{provider.ErrUntrustedKey, crypto.ErrDecryptionFailed},
	{provider.ErrEncryptionFailed, crypto.ErrEncryptionFailed},
	{provider.ErrProviderUnavailable, crypto.ErrProviderUnavailable},
	{provider.ErrEmptyPlaintext, crypto.ErrEmptyPlaintext},
	{provider.ErrEmptyCiphertext, crypto.ErrEmptyCiphertext},
}

// pikos returns an error that errors.Is also knows by Piko's sentinels.
func pikos(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	joined := &translated{err: err}
	for _, e := range pikosErrors {
		if errors.Is(err, e.ours) {
			joined.pikos = append(joined.pikos, e.pikos)
		}
	}
	return joined
}

// translated is an error with Piko's names for it. Its text is the error's, which says the same.
type translated struct {
	err   error
	pikos []error
}

func (t *translated) Error() string   { return t.err.Error() }
func (t *translated) Unwrap() []error { return append([]error{t.err}, t.pikos...) }

// keyID returns the key ID to ask for: none, for the provider's own key, where Piko states its placeholder.
func keyID(stated string) string {
	if stated == pikosDefaultKey {
		return ""
	}
	return stated
}

// Type implements crypto.EncryptionProvider.
func (p *Provider) Type() crypto.ProviderType { return crypto.ProviderType(p.kms.Type()) }

// Encrypt implements crypto.EncryptionProvider.
func (p *Provider) Encrypt(ctx context.Context, request *crypto.EncryptRequest) (*crypto.EncryptResponse, error) {
	response, err := p.kms.Encrypt(ctx, &provider.EncryptRequest{Context: request.Context, Plaintext: request.Plaintext, KeyID: keyID(request.KeyID)})
	if err != nil {
		return nil, pikos(err)
	}
	return &crypto.EncryptResponse{Ciphertext: response.Ciphertext, KeyID: response.KeyID, Provider: p.Type()}, nil
}

// Decrypt implements crypto.EncryptionProvider.
func (p *Provider) Decrypt(ctx context.Context, request *crypto.DecryptRequest) (*crypto.DecryptResponse, error) {
	response, err := p.kms.Decrypt(ctx, &provider.DecryptRequest{Context: request.Context, Ciphertext: request.Ciphertext, KeyID: keyID(request.KeyID)})
	if err != nil {
		return nil, pikos(err)
	}
	return &crypto.DecryptResponse{Plaintext: response.Plaintext}, nil
}

// GenerateDataKey implements crypto.EncryptionProvider. The wrapped key is the base64 text of KMS's ciphertext, which Decrypt
// takes.
func (p *Provider) GenerateDataKey(ctx context.Context, request *crypto.GenerateDataKeyRequest) (*crypto.DataKey, error) {
	made, err := p.kms.GenerateDataKey(ctx, &provider.GenerateDataKeyRequest{KeyID: keyID(request.KeyID), KeySpec: request.KeySpec})
	if err != nil {
		return nil, pikos(err)
	}
	defer made.Close()
	key := &crypto.DataKey{EncryptedKey: base64.StdEncoding.EncodeToString(made.EncryptedKey.Ciphertext), KeyID: made.KeyID, Provider: p.Type()}
	err = made.PlaintextKey.WithAccess(func(plain []byte) (err error) {
		key.PlaintextKey, err = crypto_dto.NewSecureBytesFromSlice(plain, crypto_dto.WithID("data key of "+made.KeyID))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: secure memory: %w", crypto.ErrEncryptionFailed, err)
	}
	return key, nil
}

// GetKeyInfo implements crypto.EncryptionProvider.
func (p *Provider) GetKeyInfo(ctx context.Context, id string) (*crypto.KeyInfo, error) {
	info, err := p.kms.GetKeyInfo(ctx, keyID(id))
	if err != nil {
		return nil, pikos(err)
	}
	return &crypto.KeyInfo{
		CreatedAt:    info.CreatedAt,
		DeletionDate: info.DeletionDate,
		Metadata:     info.Metadata,
		KeyID:        info.KeyID,
		Provider:     p.Type(),
		Algorithm:    info.Algorithm,
		Status:       crypto.KeyStatus(info.Status),
		Description:  info.Description,
		Origin:       info.Origin,
	}, nil
}

// HealthCheck implements crypto.EncryptionProvider.
func (p *Provider) HealthCheck(ctx context.Context) error { return pikos(p.kms.HealthCheck(ctx)) }

// EncryptStream implements crypto.EncryptionProvider with one call of KMS. What it writes is an AWS Encryption SDK message,
// whole when Close returns nil.
func (p *Provider) EncryptStream(ctx context.Context, output io.Writer, request *crypto.EncryptRequest) (io.WriteCloser, error) {
	w, err := p.kms.EncryptStream(ctx, output, &provider.EncryptRequest{Context: request.Context, KeyID: keyID(request.KeyID)})
	if err != nil {
		return nil, pikos(err)
	}
	return w, nil
}

// DecryptStream implements crypto.EncryptionProvider with one call of KMS.
func (p *Provider) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	d := message.Decrypter{Keyrings: []provider.Keyring{p.kms}, AllowPikoV2: p.allowPikoV2}
	r, err := d.NewReader(ctx, input, nil)
	if err != nil {
		return nil, pikos(err)
	}
	return &stream{r}, nil
}

// stream gives its errors Piko's names.
type stream struct{ *message.DecryptReader }

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.DecryptReader.Read(p)
	return n, pikos(err)
}

// WriteTo implements io.WriterTo.
func (s *stream) WriteTo(w io.Writer) (int64, error) {
	n, err := s.DecryptReader.WriteTo(w)
	return n, pikos(err)
}

var _ crypto.EncryptionProvider = (*Provider)(nil)
