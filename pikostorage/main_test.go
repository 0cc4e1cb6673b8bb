package pikostorage_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"piko.sh/piko/wdk/crypto"
	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
)

// transformersKey names the list of Piko's transformers, in metadata and in the encryption context.
const transformersKey = "x-piko-transformers"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys is a crypto provider as those of this project that stand in the place of Piko's.
type keys struct {
	crypto.EncryptionProvider
	behind provider.EncryptionProvider
}

func (k keys) Unwrap() provider.EncryptionProvider { return k.behind }

// keyService is a provider whose key service can be down, and that counts its calls.
type keyService struct {
	provider.EncryptionProvider
	down  atomic.Bool
	calls atomic.Int64
}

func (s *keyService) GenerateDataKey(ctx context.Context, encryptionContext map[string]string) (*provider.DataKey, error) {
	if s.calls.Add(1); s.down.Load() {
		return nil, fmt.Errorf("%w: connection refused", provider.ErrProviderUnavailable)
	}
	return s.EncryptionProvider.GenerateDataKey(ctx, encryptionContext)
}

func (s *keyService) UnwrapDataKey(ctx context.Context, request *provider.UnwrapDataKeyRequest) (*provider.DataKey, error) {
	if s.calls.Add(1); s.down.Load() {
		return nil, fmt.Errorf("%w: connection refused", provider.ErrProviderUnavailable)
	}
	return s.EncryptionProvider.UnwrapDataKey(ctx, request)
}

func newKeys(t testing.TB) (keys, *keyService) {
	p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{7}, 32), Name: "dev"})
	require.NoError(t, err)
	s := &keyService{EncryptionProvider: p}
	return keys{behind: s}, s
}

// encrypting returns the shelf, decorated.
func encrypting(t testing.TB, inner storage.ProviderPort, options ...pikokms.Option) storage.ProviderPort {
	k, _ := newKeys(t)
	return pikostorage.Encrypt(inner, k, options...)
}

const marker = "-- this is the plaintext --"

// document returns n bytes in which marker can be found, from 27 bytes on.
func document(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	for i := 0; i+len(marker) <= n; i += 4096 {
		copy(b[i:], marker)
	}
	return b
}

func at(repository, key string) storage.GetParams {
	return storage.GetParams{Repository: repository, Key: key}
}

func upload(key string, content []byte) *storage.PutParams {
	return &storage.PutParams{
		Repository: "default", Key: key, Reader: bytes.NewReader(content), Size: int64(len(content)), ContentType: "application/pdf",
	}
}

// read returns what Get gives, in whole or in part.
func read(t testing.TB, p storage.ProviderPort, params storage.GetParams) ([]byte, error) {
	r, err := p.Get(t.Context(), params)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return b, err
}
