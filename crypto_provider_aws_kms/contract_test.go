package crypto_provider_aws_kms_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"piko.sh/piko"
	"piko.sh/piko/internal/bootstrap"
	"piko.sh/piko/internal/crypto/crypto_domain"
	"piko.sh/piko/internal/crypto/crypto_dto"
	"piko.sh/piko/wdk/crypto"
)

// The drop-ins and their users need these of Piko, with their exact types. With a Piko in which one
// changed, this file does not compile.
var (
	_ func(...bootstrap.Option) *piko.SSRServer                           = piko.New
	_ func(string, crypto_domain.EncryptionProvider) piko.Option          = piko.WithCryptoProvider
	_ func(string) piko.Option                                            = piko.WithDefaultCryptoProvider
	_ piko.Option                                                         = func(*piko.Container) {}
	_ func(*piko.Container, string, crypto.EncryptionProvider)            = (*bootstrap.Container).AddCryptoProvider
	_ func(*piko.Container, string)                                       = (*bootstrap.Container).SetCryptoDefaultProvider
	_ crypto.EncryptionProvider                                           = crypto_domain.EncryptionProvider(nil)
	_ crypto.LocalProviderFactory                                         = crypto_domain.LocalProviderFactory(nil)
	_ func(crypto.ProviderType) bool                                      = crypto.IsValidProviderType
	_ func(op, p, key string, err error) *crypto.EncryptionError          = crypto.NewEncryptionError
	_ func() *crypto.ServiceConfig                                        = crypto.DefaultServiceConfig
	_ func() *crypto.KeyRotationPolicy                                    = crypto.DefaultKeyRotationPolicy
	_ func(int, ...crypto_dto.Option) (*crypto_dto.SecureBytes, error)    = crypto_dto.NewSecureBytes
	_ func([]byte, ...crypto_dto.Option) (*crypto_dto.SecureBytes, error) = crypto_dto.NewSecureBytesFromSlice
	_ func(string) crypto_dto.Option                                      = crypto_dto.WithID

	_ interface {
		io.ReadCloser
		ID() string
		Len() int
		IsClosed() bool
		Clone() (*crypto_dto.SecureBytes, error)
		WithAccess(func([]byte) error) error
	} = (*crypto_dto.SecureBytes)(nil)
	_ interface {
		CanEncrypt() bool
		CanDecrypt() bool
		IsUsable() bool
	} = (*crypto.KeyInfo)(nil)
	_ interface {
		IsValid() bool
		String() string
	} = crypto.ProviderType("")
	_ interface{ String() string } = crypto.KeyStatus("")
	_ interface {
		error
		Unwrap() error
	} = (*crypto.EncryptionError)(nil)
	_ io.Closer = (*crypto.DataKey)(nil)

	_ = struct {
		Err                        error
		Operation, Provider, KeyID string
	}(crypto.EncryptionError{})
	_ = struct {
		Context          map[string]string
		Plaintext, KeyID string
	}(crypto.EncryptRequest{})
	_ = struct {
		Context           map[string]string
		Ciphertext, KeyID string
	}(crypto.DecryptRequest{})
	_ = struct{ KeyID, KeySpec string }(crypto.GenerateDataKeyRequest{})
	_ = struct{ Plaintext string }(crypto.DecryptResponse{})
	_ = struct {
		Ciphertext, KeyID string
		Provider          crypto_dto.ProviderType
	}(crypto.EncryptResponse{})
	_ = struct {
		PlaintextKey        *crypto_dto.SecureBytes
		EncryptedKey, KeyID string
		Provider            crypto_dto.ProviderType
	}(crypto.DataKey{})
	_ = struct {
		CreatedAt                               time.Time
		RotatedAt, ExpirationDate, DeletionDate *time.Time
		Metadata                                map[string]string
		KeyID                                   string
		Provider                                crypto_dto.ProviderType
		Algorithm                               string
		Status                                  crypto_dto.KeyStatus
		Description, Origin                     string
	}(crypto.KeyInfo{})
)

func TestPikosNames(t *testing.T) {
	for kind, name := range map[crypto.ProviderType]string{
		crypto.ProviderTypeLocalAESGCM:    "local_aes_gcm",
		crypto.ProviderTypeAWSKMS:         "aws_kms",
		crypto.ProviderTypeGCPKMS:         "gcp_kms",
		crypto.ProviderTypeAzureKeyVault:  "azure_keyvault",
		crypto.ProviderTypeHashiCorpVault: "hashicorp_vault",
	} {
		require.Equal(t, name, kind.String())
		require.True(t, kind.IsValid())
	}
	require.False(t, crypto.ProviderType("aws").IsValid())
	require.Equal(t, pikosDefault, crypto.DefaultServiceConfig().ActiveKeyID)

	all := []error{
		crypto.ErrKeyNotFound, crypto.ErrInvalidKey, crypto.ErrInvalidCiphertext, crypto.ErrDecryptionFailed, crypto.ErrEncryptionFailed,
		crypto.ErrProviderUnavailable, crypto.ErrInvalidProvider, crypto.ErrEmptyPlaintext, crypto.ErrEmptyCiphertext, crypto.ErrContextMismatch,
		crypto.ErrKeyRotationInProgress,
	}
	for i, err := range all {
		wrapped := crypto.NewEncryptionError("Encrypt", "aws_kms", "key", err)
		for j, other := range all {
			require.Equal(t, i == j, errors.Is(wrapped, other))
		}
	}
}

func TestPikosSecureBytes(t *testing.T) {
	s, err := crypto_dto.NewSecureBytesFromSlice([]byte("secret"), crypto_dto.WithID("it"))
	require.NoError(t, err)
	require.Equal(t, "it", s.ID())
	clone, err := s.Clone()
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.True(t, s.IsClosed())
	require.Equal(t, 6, s.Len())
	require.Error(t, s.WithAccess(func([]byte) error { return nil }))
	got, err := io.ReadAll(io.LimitReader(clone, 6))
	require.NoError(t, err)
	require.Equal(t, "secret", string(got))
	require.NoError(t, clone.Close())
	_, err = crypto_dto.NewSecureBytes(0)
	require.Error(t, err)
}
