package pikostorage_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"piko.sh/piko/wdk/storage"

	"piko.sh/pikokms"
	"piko.sh/pikokms/internal/adversary"
	"piko.sh/pikokms/internal/model"
	"piko.sh/pikokms/pikostorage"
	"piko.sh/pikokms/provider"
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

// breaking is a storage provider whose operations are calls.
type breaking struct {
	*shelf
	faults *adversary.Calls
}

func (b breaking) Put(ctx context.Context, params *storage.PutParams) error {
	if err := b.faults.Call("put"); err != nil {
		_, _ = io.CopyN(io.Discard, params.Reader, 100) // the fault's error takes the place of this one
		return err
	}
	return b.shelf.Put(ctx, params)
}

func (b breaking) Get(ctx context.Context, params storage.GetParams) (io.ReadCloser, error) {
	if err := b.faults.Call("get"); err != nil {
		return nil, err
	}
	r, err := b.shelf.Get(ctx, params)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(b.faults.Reader(r)), nil
}

func (b breaking) Stat(ctx context.Context, params storage.GetParams) (*storage.ObjectInfo, error) {
	if err := b.faults.Call("stat"); err != nil {
		return nil, err
	}
	return b.shelf.Stat(ctx, params)
}

func (b breaking) Copy(ctx context.Context, repository string, from, to string) error {
	if err := b.faults.Call("copy"); err != nil {
		return err
	}
	return b.shelf.Copy(ctx, repository, from, to)
}

// TestModel compares an encrypting storage provider with a map, and breaks each call of sources, of
// keys and of the inner provider in its turn.
func TestModel(t *testing.T) {
	var inner *shelf
	system := model.System{
		Open: func(faults *adversary.Calls, options []pikokms.Option) (model.Store, error) {
			p, err := pikostorage.New(breaking{inner, faults}, options...)
			return modelled{p, faults}, err
		},
		Reset: func() error {
			inner = newShelf(true)
			return nil
		},
		// What is read of two objects in turn, since one replaced the other, does not open, or ends
		// before the size that was told of the first one.
		Expects: func(err error) bool {
			return errors.Is(err, service.ErrBreakerOpen) || errors.Is(err, provider.ErrDecryptionFailed) || errors.Is(err, provider.ErrInvalidCiphertext) ||
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
	}
	model.Check(t, system)
	model.EachFault(t, system)
}
