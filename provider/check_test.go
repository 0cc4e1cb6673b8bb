package provider_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/pikokms/header"
	"piko.sh/pikokms/provider"
)

// echo is a keyring that unwraps every data key to the one that the test sets.
type echo struct {
	made     []byte
	unwraps  []byte
	refuses  error // of GenerateDataKey
	fails    error // of UnwrapDataKey
	closed   []*provider.SecureBytes
	contexts []map[string]string
	size     int
	wrapped  header.EncryptedDataKey
}

func (e *echo) give(b []byte) *provider.SecureBytes {
	key, err := provider.NewSecureBytes(bytes.Clone(b))
	if err != nil {
		panic(err)
	}
	e.closed = append(e.closed, key)
	return key
}

func (e *echo) GenerateDataKey(_ context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if e.refuses != nil {
		return nil, e.refuses
	}
	e.contexts = append(e.contexts, encryptionContext)
	return &provider.DataKey{PlaintextKey: e.give(e.made), EncryptedKey: header.EncryptedDataKey{ProviderID: "echo", Ciphertext: []byte("wrapped")}}, nil
}

func (e *echo) WrapDataKey(context.Context, *provider.SecureBytes, map[string]string) (header.EncryptedDataKey, error) {
	return header.EncryptedDataKey{}, errors.New("a check wraps nothing")
}

func (e *echo) UnwrapDataKey(_ context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	e.contexts, e.size, e.wrapped = append(e.contexts, request.Context), request.Size, request.EncryptedKey
	if e.fails != nil {
		return nil, e.fails
	}
	return &provider.DataKey{PlaintextKey: e.give(e.unwraps)}, nil
}

// namedEcho is an echo that names its kind and its key.
type namedEcho struct{ *echo }

func (namedEcho) Type() provider.Type { return "aws_kms" }

func (n namedEcho) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	key, err := n.echo.GenerateDataKey(ctx, encryptionContext)
	key.KeyID = "alias/app"
	return key, err
}

// A data key that comes back changed is an error that names the key, as any other does.
func TestCheckNamesTheKey(t *testing.T) {
	err := provider.Check(t.Context(), namedEcho{&echo{made: make([]byte, 32), unwraps: bytes.Repeat([]byte{1}, 32)}})
	require.EqualError(t, err, "crypto HealthCheck failed with provider aws_kms and key alias/app: decryption failed: the data key came back changed")
}

// A check is passed by the data key that comes back as it was made, and by no other.
func TestCheck(t *testing.T) {
	key := bytes.Repeat([]byte{0x5a}, 32)
	other := bytes.Clone(key)
	other[31] ^= 1
	first := bytes.Clone(key)
	first[0] ^= 0x80
	down := errors.New("the key service is down")
	for name, c := range map[string]struct {
		keyring *echo
		want    error
	}{
		"the same":          {&echo{made: key, unwraps: key}, nil},
		"of another length": {&echo{made: key[:16], unwraps: key[:16]}, nil},
		"the last bit":      {&echo{made: key, unwraps: other}, provider.ErrDecryptionFailed},
		"the first bit":     {&echo{made: key, unwraps: first}, provider.ErrDecryptionFailed},
		"zeros":             {&echo{made: key, unwraps: make([]byte, 32)}, provider.ErrDecryptionFailed},
		"shorter":           {&echo{made: key, unwraps: key[:31]}, provider.ErrDecryptionFailed},
		"longer":            {&echo{made: key, unwraps: append(bytes.Clone(key), 0)}, provider.ErrDecryptionFailed},
		"not made":          {&echo{refuses: down}, down},
		"not unwrapped":     {&echo{made: key, fails: down}, down},
	} {
		t.Run(name, func(t *testing.T) {
			err := provider.Check(t.Context(), c.keyring)
			if c.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, c.want)
			}
			if c.keyring.refuses != nil {
				require.Empty(t, c.keyring.contexts, "nothing is unwrapped that was not made")
				return
			}
			require.Len(t, c.keyring.contexts, 2)
			require.NotEmpty(t, c.keyring.contexts[0], "a policy may demand an encryption context")
			require.Equal(t, c.keyring.contexts[0], c.keyring.contexts[1])
			require.Equal(t, len(c.keyring.made), c.keyring.size)
			require.Equal(t, "wrapped", string(c.keyring.wrapped.Ciphertext))
			for _, given := range c.keyring.closed {
				require.ErrorIs(t, given.WithAccess(func([]byte) error { return nil }), provider.ErrClosed, "keys are zeroed after use")
			}
		})
	}
}
