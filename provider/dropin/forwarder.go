package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"piko.sh/pikokms/provider"
)

// Forwarder hands the requests of a drop-in to the provider of a key service. The drop-in only
// translates between Piko's types and those of package provider. All errors are translated by
// Names.
type Forwarder struct {
	To    provider.EncryptionProvider
	Names Names

	// OwnKeyID is the placeholder that Piko's crypto service states as the key ID until its keys
	// are rotated. It means the provider's own key.
	OwnKeyID string

	AllowPikoV2 bool // as for DecryptStream
}

func (f *Forwarder) keyID(stated string) string {
	if stated == f.OwnKeyID {
		return ""
	}
	return stated
}

// Encrypt encrypts a value. The error may also be CheckContext's.
func (f *Forwarder) Encrypt(ctx context.Context, request provider.EncryptRequest) (*provider.EncryptResponse, error) {
	if err := CheckContext(request.Context); err != nil {
		return nil, f.Names.Translate(err)
	}
	request.KeyID = f.keyID(request.KeyID)
	response, err := f.To.Encrypt(ctx, &request)
	return response, f.Names.Translate(err)
}

// Decrypt decrypts a value. The error may also be CheckContext's.
func (f *Forwarder) Decrypt(ctx context.Context, request provider.DecryptRequest) (*provider.DecryptResponse, error) {
	if err := CheckContext(request.Context); err != nil {
		return nil, f.Names.Translate(err)
	}
	request.KeyID = f.keyID(request.KeyID)
	response, err := f.To.Decrypt(ctx, &request)
	return response, f.Names.Translate(err)
}

// GenerateDataKey makes a data key, whose plain key is lent to take.
func (f *Forwarder) GenerateDataKey(ctx context.Context, request provider.GenerateDataKeyRequest, take func(made *provider.DataKey, plain []byte) error) error {
	request.KeyID = f.keyID(request.KeyID)
	made, err := f.To.GenerateDataKey(ctx, &request)
	if err != nil {
		return f.Names.Translate(err)
	}
	err = made.PlaintextKey.WithAccess(func(plain []byte) error { return take(made, plain) })
	if err := errors.Join(err, made.Close()); err != nil {
		return f.Names.Translate(fmt.Errorf("%w: secure memory: %w", provider.ErrEncryptionFailed, err))
	}
	return nil
}

// GetKeyInfo describes a key.
func (f *Forwarder) GetKeyInfo(ctx context.Context, keyID string) (*provider.KeyInfo, error) {
	info, err := f.To.GetKeyInfo(ctx, f.keyID(keyID))
	return info, f.Names.Translate(err)
}

// HealthCheck checks that the key can be used.
func (f *Forwarder) HealthCheck(ctx context.Context) error {
	return f.Names.Translate(f.To.HealthCheck(ctx))
}

// EncryptStream is the function EncryptStream for the key that a request names.
func (f *Forwarder) EncryptStream(ctx context.Context, output io.Writer, request provider.EncryptRequest) (io.WriteCloser, error) {
	request.KeyID = f.keyID(request.KeyID)
	return EncryptStream(ctx, f.To, output, &request, f.Names)
}

// DecryptStream is the function DecryptStream.
func (f *Forwarder) DecryptStream(ctx context.Context, input io.Reader) (io.ReadCloser, error) {
	return DecryptStream(ctx, f.To, input, f.AllowPikoV2, f.Names)
}
