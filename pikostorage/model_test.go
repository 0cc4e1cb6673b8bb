package pikostorage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/model"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
	"piko.sh/pikokms/provider/local"
	"piko.sh/pikokms/service"
)

// modelled is an encrypting storage provider as package model wants it.
type modelled struct {
	storage.ProviderPort
	faults *adversary.Calls
}

func (m modelled) Put(ctx context.Context, key string, content io.Reader) error {
	return m.ProviderPort.Put(ctx, &storage.PutParams{Repository: "default", Key: key, Reader: m.faults.Reader(content), Size: -1, ContentType: "a/b"})
}

func (m modelled) get(ctx context.Context, params storage.GetParams) ([]byte, error) {
	r, err := m.ProviderPort.Get(ctx, params)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}

func (m modelled) Get(ctx context.Context, key string) ([]byte, error) {
	return m.get(ctx, at("default", key))
}

func (m modelled) Range(ctx context.Context, key string, from, length int64) ([]byte, error) {
	params := at("default", key)
	params.ByteRange = &storage.ByteRange{Start: from, End: from + max(length, 1) - 1}
	got, err := m.get(ctx, params)
	return got[:min(int64(len(got)), length)], err
}

func (m modelled) Copy(ctx context.Context, from, to string) error {
	return m.ProviderPort.Copy(ctx, "default", from, to)
}

func (m modelled) Delete(ctx context.Context, key string) error {
	return m.ProviderPort.Remove(ctx, at("default", key))
}

// Rewrap copies an object onto itself, as near as the port has it.
func (m modelled) Rewrap(ctx context.Context, key string) error { return m.Copy(ctx, key, key) }

// Close leaves the inner provider open, since the process goes on.
func (m modelled) Close() error { return nil }

// TestModel compares an encrypting storage provider with a map.
func TestModel(t *testing.T) {
	var inner *shelf
	keys := make(map[string]*local.Provider)
	for i, name := range model.Keys {
		p, err := local.NewProvider(local.Config{Key: bytes.Repeat([]byte{byte(i + 1)}, 32), Name: name})
		require.NoError(t, err)
		keys[name] = p
	}
	model.Check(t, model.System{
		Open: func(faults *adversary.Calls, current string, bound bool) (model.Store, error) {
			options := []pikokms.Option{pikokms.WithDefaultCryptoProvider(current)}
			for _, name := range model.Keys {
				options = append(options, pikokms.WithCryptoProvider(name, faults.Keys(keys[name])))
			}
			if bound {
				options = append(options, pikokms.BindObjectName("model"))
			}
			p, err := pikostorage.New(inner, options...)
			return modelled{p, faults}, err
		},
		Reset: func() error {
			inner = newShelf(true)
			return nil
		},
		// What is read of two objects in turn, since one replaced the other, does not open, or ends
		// before the size that was told of the first one.
		Expects: func(err error) bool {
			return errors.Is(err, service.ErrOpen) || errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext) ||
				errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "range not satisfiable")
		},
		Lists: func() (keys []string, err error) {
			inner.mu.Lock()
			defer inner.mu.Unlock()
			for place := range inner.objects {
				_, key, _ := strings.Cut(place, "\x00")
				keys = append(keys, key)
			}
			return keys, nil
		},
		Unconditional: true,
	})
}
